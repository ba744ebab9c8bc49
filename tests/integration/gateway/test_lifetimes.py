"""A preview ends a day after its last visit; a sandbox that answers nothing is given up."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from tests.support.gateway_world import World
from tests.support.waiting import eventually

from nightshift.contracts.events.build import BuildReady
from nightshift.contracts.events.sandbox import SandboxClosed, SandboxLost
from nightshift.sandbox_gateway.usecases import sandbox_lifecycle
from nightshift.sandboxes import client
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.process import FirstProcess


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Moves the clock of the lifecycle: `later(hours=30)`."""

    def move(**by: int) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return datetime.now(tz) + timedelta(**by)

        monkeypatch.setattr(sandbox_lifecycle, "datetime", Clock)

    return move


async def ready(world: World) -> None:
    fields = {"project_id": "p1", "preview_url": "http://127.0.0.1/", "build_version": 1, "cost_microusd": 0}
    await world.say(BuildReady(sandbox_id=await world.box_id(), turns=1, tool_calls=1, **fields))
    await world.save("completion")


async def ends(world: World) -> list[str]:
    await world.gateway().work(world.build_id)
    return [event.reason for event in await world.events() if isinstance(event, SandboxClosed)]


async def test_a_preview_ends_a_day_after_its_last_visit(
    world: World, later: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.bash("true")
    await ready(world)
    assert await ends(world) == [], "it has just become ready"
    later(hours=30)
    visit = datetime.now(UTC) + timedelta(hours=10)

    async def visited(_driver: LocalDriver, _sandbox_id: str) -> datetime:
        return visit

    with monkeypatch.context() as patched:
        patched.setattr(LocalDriver, "visited_at", visited)
        assert await ends(world) == [], "somebody has visited it since"
        later(hours=35)
        assert await ends(world) == ["preview_expired"]
    assert await world.driver.list() == []
    assert await ends(world) == ["preview_expired"], "once"


async def test_a_preview_that_nobody_visits_ends(world: World, later: Callable[..., None]) -> None:
    await world.bash("true")
    await ready(world)
    later(hours=25)
    assert await ends(world) == ["preview_expired"]


@contextmanager
def hung(world: World, sandbox_id: str) -> Iterator[FirstProcess]:
    """Stops the agent of the sandbox. Within, every request to a sandbox has a hundredth of its time."""
    assert isinstance(world.driver, LocalDriver)
    first, real = world.driver._directory(sandbox_id).first(), asyncio.timeout
    assert first is not None
    os.kill(first.pid, signal.SIGSTOP)
    with mock.patch.object(client.asyncio, "timeout", lambda s: real(None if s is None else s / 100)):
        yield first


async def test_a_sandbox_that_answers_nothing_is_replaced(world: World) -> None:
    await world.bash("true")
    [call] = await world.ask(("bash", {"command": "echo x > x"}))
    gateway = world.gateway()

    async def answered() -> bool:
        await gateway.work(world.build_id)
        return call in await world.results()

    with hung(world, await world.box_id()) as first:
        await eventually(answered, timeout=60)
    assert (await world.results())[call].error_kind == "sandbox_lost"
    [lost] = [event for event in await world.events() if isinstance(event, SandboxLost)]
    assert "without an answer" in str(lost.detail)
    assert not first.runs(), "the one that hung is ended"
    assert (await world.bash("ls x")).error_kind == "exit", "the call was not run in the new one"


async def test_a_cancel_ends_a_call_whose_sandbox_hangs(world: World) -> None:
    [call] = await world.ask(("bash", {"command": "echo begun > begun; sleep 600"}), timeout_s=600)
    gateway = world.gateway()
    working = asyncio.create_task(gateway.work(world.build_id))

    async def begun() -> bool:
        if "sandbox.opened" not in await world.types():
            return False
        sandbox = await world.driver.connect(await world.box_id())
        return await sandbox.stat("begun") is not None

    await eventually(begun)

    async def answered() -> bool:
        await gateway.stop_if_ended(world.build_id)
        if working.done():
            await gateway.work(world.build_id)
        return call in await world.results()

    with hung(world, await world.box_id()) as first:
        await world.cancelled()
        await eventually(answered, timeout=60)
        assert (await world.results())[call].error_kind in ("cancelled", "sandbox_lost")
        await world.save_fails("completion")  # a sandbox that hangs cannot be saved
        await gateway.work(world.build_id)
        await asyncio.gather(working, return_exceptions=True)
        assert not first.runs()
    assert await world.driver.list() == []
