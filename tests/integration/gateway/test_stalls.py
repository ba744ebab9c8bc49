"""A build that waits for its sandbox says so in the log, with what to do; the gateway keeps trying."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.integration.sandboxes.conftest import e2b_driver, e2b_server  # noqa: F401 - a fixture
from tests.support.e2b_server import E2BServer
from tests.support.gateway_world import World
from tests.support.waiting import eventually

from nightshift.contracts.events.sandbox import SandboxStalled
from nightshift.eventlog.errors import Unavailable
from nightshift.sandboxes.client import AgentSandbox
from nightshift.sandboxes.errors import FileRefused, ProviderRefused, SandboxUnavailable

BASH = ("bash", {"command": "echo hi"})


async def stalls(world: World) -> list[SandboxStalled]:
    return [event for event in await world.events() if isinstance(event, SandboxStalled)]


def raising(error: Exception) -> Callable[..., Awaitable[Any]]:
    async def fails(*_: Any, **__: Any) -> Any:
        raise error

    return fails


async def test_a_provider_that_is_down_is_told_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = world.gateway()
    monkeypatch.setattr(world.driver, "create", raising(SandboxUnavailable("503 from the provider")))
    await world.ask(BASH)
    for _ in range(5):
        await gateway.work(world.build_id)
    [stalled] = await stalls(world)
    assert (stalled.reason, stalled.attempt, stalled.detail) == ("unavailable", 2, "503 from the provider")
    assert "nightshift cancel" in stalled.action
    assert sum(world.looked_again[:1]) <= 1, "the second attempt, which is told, comes within a second"
    monkeypatch.undo()
    await gateway.work(world.build_id)
    assert len(await world.results()) == 1


async def test_a_changed_reason_is_told_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = world.gateway()
    await world.ask(BASH)
    refused = ProviderRefused("401: no such key", hint="set E2B_API_KEY")
    for error in (SandboxUnavailable("503"), SandboxUnavailable("503"), refused, refused, OSError("disk")):
        monkeypatch.setattr(world.driver, "create", raising(error))
        await gateway.work(world.build_id)
    first, second, third = await stalls(world)
    assert [first.reason, second.reason, third.reason] == ["unavailable", "refused", "fault"]
    assert second.action.startswith("set E2B_API_KEY")
    assert first.since == second.since == third.since
    assert len(world.looked_again) == 5, "a fault is tried again too"


async def test_a_refused_restore_is_told_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.bash("echo x > x")
    await world.sleep()
    await world.save("pre_sleep")
    await world.gateway().work(world.build_id)
    await world.wake()
    lifecycle = "nightshift.sandbox_gateway.usecases.sandbox_lifecycle.restore"
    monkeypatch.setattr(lifecycle, raising(FileRefused("日.md: name too long", kind="invalid")))
    await world.ask(BASH)
    gateway = world.gateway()
    await gateway.work(world.build_id)
    await gateway.work(world.build_id)
    [stalled] = await stalls(world)
    assert (stalled.reason, stalled.detail) == ("restore_refused", "日.md: name too long")


async def test_an_object_store_that_is_down_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lifecycle = "nightshift.sandbox_gateway.usecases.sandbox_lifecycle.restore"
    monkeypatch.setattr(lifecycle, raising(Unavailable("S3 at 127.0.0.1 does not answer")))
    await world.bash("echo x > x")
    await world.save("checkpoint")
    await world.driver.kill(await world.box_id())
    await world.ask(("read_file", {"file_path": "x"}))
    gateway = world.gateway()
    await gateway.work(world.build_id)
    await gateway.work(world.build_id)
    [stalled] = await stalls(world)
    assert stalled.reason == "dependency"
    assert "S3" in str(stalled.detail)


async def test_a_provider_that_does_not_answer_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(world.driver, "create", hangs)
        await world.ask(BASH)
        working = asyncio.create_task(world.gateway(slow_s=0.2).work(world.build_id))
        [stalled] = await eventually(lambda: stalls(world))
        working.cancel()
    assert (stalled.reason, stalled.attempt) == ("slow", 0)


@pytest.mark.parametrize(
    ("call", "hanging"),
    [(BASH, "run_call"), (("write_file", {"file_path": "f", "content": "x"}), "write_file")],
)
async def test_a_sandbox_that_hangs_in_a_call_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, call: tuple[str, dict[str, Any]], hanging: str
) -> None:
    async def hangs(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    await world.bash("true")
    with monkeypatch.context() as patched:
        patched.setattr(AgentSandbox, hanging, hangs)
        await world.ask(call)
        working = asyncio.create_task(world.gateway(slow_s=0.2).work(world.build_id))
        [stalled] = await eventually(lambda: stalls(world))
        working.cancel()
    assert stalled.reason == "slow"


async def test_a_sandbox_that_is_quick_is_not_told(world: World) -> None:
    await world.bash("sleep 0.5")
    assert await stalls(world) == []


async def test_a_log_that_does_not_answer_stops_no_retry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = world.gateway()
    await world.ask(BASH)
    with monkeypatch.context() as patched:
        patched.setattr(world.log, "read_stream", _no_log)
        await gateway.work(world.build_id)
        await gateway.work(world.build_id)
    assert len(world.looked_again) == 2
    await gateway.work(world.build_id)
    assert len(await world.results()) == 1


def _no_log(*_: Any, **__: Any) -> Any:
    raise Unavailable("PostgreSQL does not answer")


async def test_a_stall_names_the_unknown_template(e2b_server: E2BServer) -> None:  # noqa: F811
    world = World(e2b_driver(e2b_server, template="web-2"))
    await world.accept()
    await world.ask(BASH)
    e2b_server.refuse("create", 404, "template 'web-2' not found")
    await world.gateway().work(world.build_id)
    [stalled] = await stalls(world)
    assert stalled.reason == "refused"
    assert "template 'web-2' not found" in str(stalled.detail)
    assert "E2B_TEMPLATE" in stalled.action
