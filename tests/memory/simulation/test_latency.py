"""Every call of a simulated port takes time, because no fault ever hits a window of no width."""

import asyncio
import inspect
from collections import Counter
from functools import wraps

import pytest
from tests.memory.deployment.scenario import scenario as deployment
from tests.support.memory_ledger import MemoryLedger

from nightshift.bus.memory import MemoryBus
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.leases.memory import MemoryLeases
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.simulation import World, simulate
from nightshift.simulation.fault_profile import SHORTEST
from nightshift.simulation.loop import CURRENT_RUN
from nightshift.simulation.scenarios import bus, leases, log

#: The adapters that stand for a server.
REMOTE = (MemoryEventLog, MemoryLeases, MemoryObjectStore, MemoryBus, MemoryLedger, bus.DeadLetterProducer)


class CallTimes:
    """Counts the calls of the adapters, and the calls from a simulated process that took no virtual time."""

    def __init__(self) -> None:
        self.called: Counter[str] = Counter()
        self.quick: Counter[str] = Counter()

    def count(self, name: str, began: float) -> None:
        run, took = CURRENT_RUN.get(), asyncio.get_running_loop().time() - began
        self.called[name] += 1
        # Without a process run the caller is a server, or the scenario before and after its processes.
        if run is not None and not run.over and took < SHORTEST:
            self.quick[name] += 1

    def timed(self, name: str, method):
        if inspect.isasyncgenfunction(method):

            @wraps(method)
            async def called(*args, **more):
                began, first = asyncio.get_running_loop().time(), True
                async for item in method(*args, **more):
                    if first:
                        self.count(name, began)
                    first = False
                    yield item

        else:

            @wraps(method)
            async def called(*args, **more):
                began = asyncio.get_running_loop().time()
                answer = await method(*args, **more)
                self.count(name, began)
                return answer

        return called


@pytest.fixture
def times(monkeypatch) -> CallTimes:
    one = CallTimes()
    for adapter in REMOTE:
        for name, method in vars(adapter).items():
            waits = inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)
            if waits and not name.startswith("_"):
                monkeypatch.setattr(adapter, name, one.timed(f"{adapter.__name__}.{name}", method))
    return one


@pytest.mark.parametrize(
    ("scenario", "seeds", "used"),
    [
        (log.scenario, 20, {"MemoryEventLog.append_all", "MemoryEventLog.read_stream"}),
        (leases.scenario, 20, {"MemoryLeases.acquire", "MemoryLeases.renew", "MemoryLeases.release"}),
        (bus.scenario, 20, {"MemoryEventLog.append", "MemoryEventLog.pending", "MemoryObjectStore.get"}),
        (deployment, 2, {"MemoryEventLog.append", "MemoryLedger.transact", "MemoryLeases.acquire"}),
    ],
    ids=["log", "leases", "bus", "deployment"],
)
def test_each_call_of_a_port_from_a_process_takes_time(
    times: CallTimes, scenario, seeds: int, used: set[str]
):
    for seed in range(seeds):
        simulate(scenario, seed)
    assert used <= set(times.called)
    assert times.quick == {}


@pytest.mark.parametrize("wired", [True, False])
def test_a_port_that_takes_no_time_is_found(times: CallTimes, wired: bool):
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
    assert bool(times.quick) is not wired


def test_a_dead_letter_takes_time(times: CallTimes):
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
    assert times.called["DeadLetterProducer.send"]
    assert times.quick == {}
