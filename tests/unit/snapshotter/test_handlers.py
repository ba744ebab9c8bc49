"""Which builds the snapshotter's handlers offer to the pool, and when they offer them again."""

import asyncio
from uuid import uuid4

import pytest

from nightshift.contracts.events.build import CheckpointSaved
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.port import RecordedEvent
from nightshift.servicekit.build_accounts import BuildAccounts
from nightshift.servicekit.worker_pool import WorkerPool
from nightshift.snapshotter.handlers import Handlers

FACT = CheckpointSaved(turn=1)


class FailingSnapshots:
    """Fails so often, each time with the same short pause."""

    def __init__(self, failures: int) -> None:
        self.failures, self.made = failures, 0
        self.done = asyncio.Event()

    async def make(self, build_id: str) -> float | None:
        self.made += 1
        if self.made <= self.failures:
            return 0.001
        self.done.set()
        return None


def wanted(build: str) -> RecordedEvent:
    return RecordedEvent(uuid4(), f"build-{build}", 1, FACT, build, uuid4(), "test", None, None)


async def test_a_failed_snapshot_is_offered_again_after_its_pause() -> None:
    snapshots = FailingSnapshots(failures=3)
    async with WorkerPool("test", limit=1) as pool:
        await Handlers(snapshots, pool, BuildAccounts(MemoryEventLog())).on_snapshot_wanted(wanted("b"))
        await asyncio.wait_for(snapshots.done.wait(), 5)
    assert snapshots.made == 4


async def test_a_pause_holds_no_place_in_the_pool() -> None:
    """Ten builds whose store is full must not keep the eleventh from being saved."""
    snapshots = FailingSnapshots(failures=10)
    async with WorkerPool("test", limit=1) as pool:
        handlers = Handlers(snapshots, pool, BuildAccounts(MemoryEventLog()))
        for number in range(10):
            await handlers.on_snapshot_wanted(wanted(f"b{number}"))
        await handlers.on_snapshot_wanted(wanted("eleventh"))
        await asyncio.wait_for(snapshots.done.wait(), 5)


async def test_messages_during_a_pause_add_no_second_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, timers = asyncio.get_running_loop(), []

    def record(_seconds: float, call, *args) -> asyncio.TimerHandle:
        timers.append(real(3600, call, *args))
        return timers[-1]

    real = loop.call_later
    monkeypatch.setattr(loop, "call_later", record)
    snapshots = FailingSnapshots(failures=10**9)
    async with WorkerPool("test", limit=1) as pool:
        handlers = Handlers(snapshots, pool, BuildAccounts(MemoryEventLog()))
        for _ in range(20):
            await handlers.on_snapshot_wanted(wanted("b"))
            await pool.room()
    assert snapshots.made == 20
    assert sum(not timer.cancelled() for timer in timers) == 1
    timers[-1].cancel()
