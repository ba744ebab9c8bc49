"""Every call of a simulated port takes time: a window of no width is never hit, and nothing is found in it."""

import asyncio
import inspect
from collections import Counter
from functools import wraps

import pytest
from tests.memory.orchestrator.test_town import scenario as town

from nightshift.bus.memory import MemoryBus
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.leases.memory import MemoryLeases
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.simulation import World, simulate
from nightshift.simulation.loop import CURRENT_RUN
from nightshift.simulation.scenarios import bus, leases, log
from nightshift.simulation.fault_profile import SHORTEST

#: What stands in a simulation for something that is elsewhere.
ELSEWHERE = (MemoryEventLog, MemoryLeases, MemoryObjectStore, MemoryBus, bus.DeadLetterProducer)


class Watch:
    """Who was called from inside a simulated process or at the server, and who took no time for it."""

    def __init__(self) -> None:
        self.called: Counter[str] = Counter()
        self.quick: Counter[str] = Counter()

    def judge(self, name: str, began: float) -> None:
        run, took = CURRENT_RUN.get(), asyncio.get_running_loop().time() - began
        self.called[name] += 1
        # Without a run it is the server's own doing, or the scenario's before and after the run.
        if run is not None and not run.over and took < SHORTEST:
            self.quick[name] += 1

    def over(self, name: str, method):
        if inspect.isasyncgenfunction(method):

            @wraps(method)
            async def watched(*args, **more):
                began, first = asyncio.get_running_loop().time(), True
                async for item in method(*args, **more):
                    if first:
                        self.judge(name, began)
                    first = False
                    yield item

        else:

            @wraps(method)
            async def watched(*args, **more):
                began = asyncio.get_running_loop().time()
                answer = await method(*args, **more)
                self.judge(name, began)
                return answer

        return watched


@pytest.fixture
def watch(monkeypatch) -> Watch:
    one = Watch()
    for adapter in ELSEWHERE:
        for name, method in vars(adapter).items():
            waits = inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)
            if waits and not name.startswith("_"):
                monkeypatch.setattr(adapter, name, one.over(f"{adapter.__name__}.{name}", method))
    return one


@pytest.mark.parametrize(
    ("scenario", "seeds", "used"),
    [
        (log.scenario, 20, {"MemoryEventLog.append_all", "MemoryEventLog.read_stream"}),
        (leases.scenario, 20, {"MemoryLeases.acquire", "MemoryLeases.renew", "MemoryLeases.release"}),
        (bus.scenario, 20, {"MemoryEventLog.append", "MemoryEventLog.pending", "MemoryObjectStore.get"}),
        (town, 3, {"MemoryEventLog.append", "MemoryLeases.acquire", "MemoryLeases.renew"}),
    ],
    ids=["log", "leases", "bus", "town"],
)
def test_each_call_of_a_port_from_a_process_takes_time(watch: Watch, scenario, seeds: int, used: set[str]):
    for seed in range(seeds):
        simulate(scenario, seed)
    assert used <= set(watch.called)
    assert watch.quick == {}


@pytest.mark.parametrize("wired", [True, False])
def test_a_port_that_takes_no_time_would_be_seen(watch: Watch, wired: bool):
    async def scenario(world: World) -> None:
        store = MemoryObjectStore(wire=world if wired else None)

        async def main() -> None:
            try:
                await store.put("a", b"")
            except Unavailable:
                world.note("lost")

        await world.finish([world.start("one", main)], within=60)

    for seed in range(5):
        simulate(scenario, seed)
    assert bool(watch.quick) is not wired


def test_a_dead_letter_takes_time_too(watch: Watch):
    async def scenario(world: World) -> None:
        letters = bus.DeadLetterProducer(world, bus.Store())

        async def main() -> None:
            try:
                await letters.send([])
            except Unavailable:
                world.note("lost")

        await world.finish([world.start("one", main)], within=60)

    for seed in range(5):
        simulate(scenario, seed)
    assert watch.called["DeadLetterProducer.send"]
    assert watch.quick == {}
