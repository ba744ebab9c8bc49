"""The cache of folded states: it reads each event once, keeps the newest state, and forgets the oldest build."""

import asyncio

from tests.support import facts

from nightshift.eventlog.fold_cache import FoldCache
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.port import RecordedEvent, build_stream


def evolve(state: tuple[int, ...], event: RecordedEvent) -> tuple[int, ...]:
    return (*state, event.version)


class CountingLog(MemoryEventLog):
    """Counts what is read. `gate` holds every read back until it is set."""

    read = 0
    gate: asyncio.Event | None = None

    async def read_stream(self, stream_id, **bounds):
        rows = [event async for event in super().read_stream(stream_id, **bounds)]
        if self.gate is not None:
            await self.gate.wait()
        for event in rows:
            self.read += 1
            yield event


async def test_each_event_is_read_once() -> None:
    log = CountingLog()
    cache = FoldCache(log, lambda _: (), evolve)
    assert await cache.read("b") == ()
    for number in range(1, 4):
        await log.append(build_stream("b"), [facts.note()])
        assert await cache.read("b") == tuple(range(1, number + 1))
    assert log.read == 3


async def test_the_build_read_longest_ago_is_forgotten_first() -> None:
    log = CountingLog()
    for build in ("a", "b", "c"):
        await log.append(build_stream(build), [facts.note()])
    cache = FoldCache(log, lambda _: (), evolve, size=2)
    for build in ("a", "b", "a", "c", "a"):
        assert await cache.read(build) == (1,)
    assert log.read == 3
    await cache.read("b")
    assert log.read == 4


async def test_a_slow_read_does_not_replace_a_newer_state() -> None:
    log = CountingLog()
    cache = FoldCache(log, lambda _: (), evolve)
    await log.append(build_stream("b"), [facts.note()])
    log.gate = asyncio.Event()
    slow = asyncio.create_task(cache.read("b"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gate, log.gate = log.gate, None
    await log.append(build_stream("b"), [facts.note()])
    assert await cache.read("b") == (1, 2)
    gate.set()
    assert await slow == (1,)
    log.read = 0
    assert await cache.read("b") == (1, 2)
    assert log.read == 0
