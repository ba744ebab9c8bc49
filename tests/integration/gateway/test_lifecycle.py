"""Sandboxes over the life of a build: sleep, restore, loss, pause, cancel, two gateways, orphans."""

import asyncio
from typing import Any

import pytest
from tests.support.gateway_world import World, soon
from tests.support.waiting import eventually

from nightshift.contracts.events.sandbox import SandboxClosed, SandboxLost, SandboxOpened, SandboxRestored
from nightshift.sandboxes.errors import SandboxUnavailable


def only(events: list[Any], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


async def asleep(world: World) -> None:
    await world.checkpoint()
    await world.sleep()


async def test_a_sleep_closes_the_sandbox_and_a_wake_restores_it(world: World) -> None:
    await world.bash(
        "mkdir -p src; echo keep > src/kept; chmod 755 src/kept; ln -s kept src/link; echo x > gone; rm gone"
    )
    first = await world.box_id()
    await asleep(world)
    await world.gateway().work(world.build_id)
    assert "sandbox.closed" not in await world.types(), "not before its snapshot is saved"
    saved = await world.save("pre_sleep")
    await world.gateway().work(world.build_id)
    assert (await world.types())[-2:] == ["snapshot.saved", "sandbox.closed"]
    assert await world.driver.list() == []

    await world.wake()
    back = await world.bash("cat src/link; stat -c %a src/kept; ls -A")
    assert back.output.splitlines()[:3] == ["keep", "755", "src"]
    [opened, again] = only(await world.events(), SandboxOpened)
    assert (opened.sandbox_id, opened.generation, again.generation) == (first, 0, 1)
    [restored] = only(await world.events(), SandboxRestored)
    assert (restored.tree_digest, restored.from_snapshot) == (saved.tree_digest, saved.key)
    assert (restored.files, restored.healed, restored.lost) == (1, 0, ())


async def test_a_build_sleeps_and_wakes_three_times(world: World) -> None:
    for number in range(3):
        await world.bash(f"echo {number} >> log")
        await asleep(world)
        await world.save("pre_sleep")
        await world.gateway().work(world.build_id)
        await world.wake()
    assert (await world.bash("cat log")).output.startswith("0\n1\n2\n")
    assert len(only(await world.events(), SandboxClosed)) == 3


async def test_a_failed_snapshot_keeps_the_sandbox_paused_over_the_sleep(world: World) -> None:
    await world.bash("echo keep > kept")
    box = await world.box_id()
    await asleep(world)
    await world.save_fails("pre_sleep")
    await world.gateway().work(world.build_id)
    await world.gateway().work(world.build_id)
    assert (await world.types()).count("sandbox.paused") == 1
    assert [info.state for info in await world.driver.list()] == ["paused"]
    await world.wake()
    assert "keep" in (await world.bash("cat kept")).output
    assert await world.box_id() == box
    # The next night it is resumed and at work again, and so has to be paused again.
    await asleep(world)
    await world.save_fails("pre_sleep")
    await world.gateway().work(world.build_id)
    assert (await world.types()).count("sandbox.paused") == 2
    assert [info.state for info in await world.driver.list()] == ["paused"]


async def test_a_lost_sandbox_fails_the_running_call_once(
    world: World,
) -> None:
    await world.bash("echo one > file")
    await world.checkpoint()
    await world.save("checkpoint")
    box = await world.box_id()
    [slow, after] = await world.ask(
        ("bash", {"command": "echo two > file; sleep 30"}), ("bash", {"command": "cat file"})
    )
    working = asyncio.create_task(world.gateway().work(world.build_id))
    sandbox = await world.driver.connect(box)
    await eventually(lambda: running(sandbox, slow))
    await world.driver.kill(box)
    await soon(working)
    await world.gateway().work(
        world.build_id
    )  # an answer that was cut is looked at again, and only then lost
    results = await world.results()
    assert results[slow].error_kind == "sandbox_lost"
    assert results[after].output.startswith("one\n")
    assert len(only(await world.events(), SandboxLost)) == 1
    types = await world.types()
    assert types[types.index("sandbox.lost") :] == [
        "sandbox.lost",
        "tool_call.completed",
        "sandbox.opened",
        "sandbox.restored",
        "tool_call.completed",
    ]


async def running(sandbox: Any, call_id: str) -> bool:
    return (await sandbox.call_status(call_id)).state == "running"


async def test_reads_of_a_lost_sandbox_are_read_in_the_restored_one(world: World) -> None:
    await world.bash("echo one > file")
    await world.save("checkpoint")
    await world.driver.kill(await world.box_id())
    [read] = await world.run(("read_file", {"file_path": "file"}))
    assert read.output == "     1\tone"


async def test_a_sandbox_that_is_gone_after_a_sleep_loses_nothing(world: World) -> None:
    await world.bash("echo one > file")
    await asleep(world)
    await world.save("pre_sleep")
    await world.wake()  # before any gateway looked
    await world.driver.kill(await world.box_id())
    assert (await world.bash("cat file")).output.startswith("one")


async def test_a_corrupt_pack_is_never_served_and_what_is_lost_is_named(world: World) -> None:
    await world.bash("echo one > one; echo two > two")
    await asleep(world)
    await world.save("pre_sleep")
    await world.gateway().work(world.build_id)
    for key, body in list(world.objects.bodies.items()):
        if key.endswith(".pack"):
            world.objects.bodies[key] = body[:-3] + bytes([body[-3] ^ 1]) + body[-2:]
    await world.wake()
    listing = await world.bash("ls")
    [restored] = only(await world.events(), SandboxRestored)
    assert len(restored.lost) == 1
    assert set(listing.output.splitlines()[:-1]) == {"one", "two"} - set(restored.lost)


async def test_a_cancel_stops_the_running_tool_in_seconds(world: World) -> None:
    [slow, never] = await world.ask(
        ("bash", {"command": "echo begun; sleep 60"}), ("bash", {"command": "echo no > no"}), timeout_s=120
    )
    gateway = world.gateway(lease_s=1.0)
    working = asyncio.create_task(gateway.work(world.build_id))
    await eventually(lambda: opened(world))
    sandbox = await world.driver.connect(await world.box_id())
    await eventually(lambda: running(sandbox, slow))
    await world.cancelled()  # nobody tells this gateway: it sees it in the log
    await soon(working, 10)
    results = await world.results()
    assert results[slow].error_kind == "cancelled"
    assert "begun" in results[slow].output
    assert results[never].error_kind == "cancelled"
    assert await sandbox.stat("no") is None
    await world.save("completion")
    await world.gateway().work(world.build_id)
    assert await world.driver.list() == []


async def opened(world: World) -> bool:
    return "sandbox.opened" in await world.types()


@pytest.mark.long
async def test_two_gateways_with_repeated_messages_run_each_call_once(world: World) -> None:
    gateways = [world.gateway(f"g{number}", lease_s=0.6) for number in range(2)]
    await world.ask(*(("bash", {"command": f"echo {number} >> log; sleep 0.02"}) for number in range(20)))
    while len(await world.results()) < 20:
        await asyncio.gather(*(gateway.work(world.build_id) for gateway in gateways * 2))
    lines = (await world.bash("cat log")).output.splitlines()[:-1]
    assert lines == [str(number) for number in range(20)]
    assert (await world.types()).count("sandbox.opened") == 1


async def test_a_gateway_that_lost_its_lease_gives_up_and_the_next_attaches(world: World) -> None:
    [slow] = await world.ask(
        ("bash", {"command": "echo x >> log; while [ ! -e go ]; do sleep 0.02; done; cat log"})
    )
    first, second = world.gateway("g1", lease_s=0.6), world.gateway("g2", lease_s=30.0)
    working = asyncio.create_task(first.work(world.build_id))
    await eventually(lambda: opened(world))
    sandbox = await world.driver.connect(await world.box_id())
    await eventually(lambda: running(sandbox, slow))
    stolen = world.leases._rows  # the lease runs out, as when the process was paused
    stolen[f"sandbox/{world.build_id}"] = stolen[f"sandbox/{world.build_id}"].__class__(None, 99, 0.0)
    taken = asyncio.create_task(second.work(world.build_id))
    assert await soon(working) == 0.6, "it asks to be called again when the new lease may have expired"
    await sandbox.write_file("go", b"")
    await soon(taken)
    assert (await world.results())[slow].output.startswith("x\n[exit")


async def test_a_busy_lease_is_asked_for_again_only_when_work_waits(world: World) -> None:
    await world.leases.acquire(f"sandbox/{world.build_id}", "other", ttl=60)
    await world.gateway().work(world.build_id)
    assert world.looked_again == []
    await world.ask(("bash", {"command": "true"}))
    await world.gateway().work(world.build_id)
    assert len(world.looked_again) == 1


async def test_a_call_without_a_sandbox_needs_no_lease(world: World) -> None:
    lease = await world.leases.acquire(f"sandbox/{world.build_id}", "other", ttl=60)
    told, ran = await world.ask(
        ("narrate", {"phase": "code", "message": "m"}), ("bash", {"command": "echo x"})
    )
    await asyncio.gather(*(world.gateway(name).work(world.build_id) for name in ("g1", "g2")))
    assert list(await world.results()) == [told]
    assert len(world.looked_again) == 2
    await world.leases.release(lease)
    await world.gateway().work(world.build_id)
    results = await world.results()
    assert results[told].output == "[code] m"
    assert results[ran].output.startswith("x\n")
    fence = (await world.leases.acquire(f"sandbox/{world.build_id}", "other", ttl=60)).fence
    await world.run(("narrate", {"phase": "code", "message": "no lease"}))
    await world.run(("narrate", {"phase": "nowhere", "message": "refused"}))
    assert (await world.leases.acquire(f"sandbox/{world.build_id}", "other", ttl=60)).fence == fence + 1


async def test_a_provider_that_is_down_is_asked_again_later(world: World, monkeypatch: Any) -> None:
    async def down(*_: Any, **__: Any) -> Any:
        raise SandboxUnavailable("busy")

    gateway = world.gateway()
    monkeypatch.setattr(world.driver, "create", down)
    await world.ask(("bash", {"command": "echo hi"}))
    await gateway.work(world.build_id)
    await gateway.work(world.build_id)
    first, second = world.looked_again
    assert 0.5 <= first <= 1 <= second <= 2
    monkeypatch.undo()
    await gateway.work(world.build_id)
    assert len(await world.results()) == 1
