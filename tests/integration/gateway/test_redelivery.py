"""Facts that are delivered again, at any later time, change nothing: neither the log nor a sandbox."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.support.gateway_world import World
from tests.support.waiting import eventually

from nightshift.sandbox_gateway.handlers import Handlers
from nightshift.sandbox_gateway.usecases.build_worker import BuildWorker
from nightshift.sandbox_gateway.usecases.call_dispatcher import CallDispatcher
from nightshift.servicekit.build_accounts import BuildAccounts


class InlinePool:
    """Runs what is offered when the test asks for it."""

    def __init__(self) -> None:
        self.offers: list[Callable[[], Awaitable[None]]] = []

    def offer(self, _key: str, work: Callable[[], Awaitable[None]]) -> bool:
        self.offers.append(work)
        return True

    async def run_all(self) -> None:
        while self.offers:
            await self.offers.pop()()


async def deliver_all_again(world: World, worker: BuildWorker) -> int:
    """Every fact of the log, in order and then in reverse order. Returns how many had a handler."""
    pool: Any = InlinePool()
    dispatcher = CallDispatcher(pool, worker, BuildAccounts(world.log))
    handlers = Handlers(dispatcher)
    table = {**handlers.on_builds(), **handlers.on_snapshots()}
    facts = [fact async for fact in world.log.read_stream(world.stream)]
    handled = 0
    for fact in [*facts, *reversed(facts)]:
        if type(fact.data) in table:
            await table[type(fact.data)](fact)
            handled += 1
    await pool.run_all()
    return handled


async def test_old_facts_change_nothing_in_a_build_that_woke(world: World) -> None:
    await world.bash("echo once >> log")
    await world.checkpoint()
    await world.sleep()
    await world.save("pre_sleep")
    await world.gateway().work(world.build_id)
    await world.wake()
    assert (await world.bash("cat log")).output.startswith("once\n")
    before, boxes = await world.events(), await world.driver.list()
    assert await deliver_all_again(world, world.gateway("g2")) >= 8
    assert await world.events() == before
    assert await world.driver.list() == boxes
    assert (await world.bash("cat log")).output == "once\n[exit code 0]"


async def test_old_facts_change_nothing_while_a_call_runs(world: World) -> None:
    await world.bash("true")
    await world.sleep()
    await world.save_fails("pre_sleep")
    await world.gateway().work(world.build_id)
    await world.wake()
    [slow] = await world.ask(("bash", {"command": "echo x >> log; while [ ! -e go ]; do sleep 0.02; done"}))
    first = world.gateway("g1")
    working = asyncio.create_task(first.work(world.build_id))
    sandbox = await world.driver.connect(await world.box_id())
    await eventually(lambda: sandbox.stat("log"))
    before = await world.events()
    await deliver_all_again(world, world.gateway("g2"))
    assert await world.events() == before
    assert (await sandbox.call_status(slow)).state == "running"
    await sandbox.write_file("go", b"")
    await working
    assert not (await world.results())[slow].is_error
    assert await sandbox.read_file("log") == b"x\n"


async def test_old_facts_change_nothing_after_the_end(world: World) -> None:
    await world.bash("true")
    await world.cancelled()
    await world.gateway().work(world.build_id)
    assert len(await world.driver.list()) == 1, "its files are not saved yet"
    await world.save("completion")
    await world.gateway().work(world.build_id)
    before = await world.events()
    await deliver_all_again(world, world.gateway("g2"))
    assert await world.events() == before
    assert await world.driver.list() == []


async def test_the_end_of_another_build_stops_nothing(world: World) -> None:
    """Only the log says that a build has ended: a message alone stops no command."""
    [slow] = await world.ask(("bash", {"command": "echo x > begun; while [ ! -e go ]; do sleep 0.02; done"}))
    worker = world.gateway()
    working = asyncio.create_task(worker.work(world.build_id))
    await eventually(lambda: _opened(world))
    sandbox = await world.driver.connect(await world.box_id())
    await eventually(lambda: sandbox.stat("begun"))
    await worker.stop_if_ended(world.build_id)
    await sandbox.write_file("go", b"")
    await working
    assert not (await world.results())[slow].is_error


async def _opened(world: World) -> bool:
    return "sandbox.opened" in await world.types()
