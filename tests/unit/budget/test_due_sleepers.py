"""A crowd that is due at one moment: each sleeper comes at its own moment, in order, and none is lost."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from nightshift.budget.usecases import due_sleepers
from nightshift.budget.usecases.due_sleepers import DueSleepers
from nightshift.contracts.events.build import BuildWoken, SleepRequested
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.port import NewEvent, PendingItem

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)


async def _sleep(log: MemoryEventLog, key: str, due_at: datetime = MIDNIGHT) -> None:
    fact = SleepRequested(reason="budget", account_id="a", wake_at=due_at)
    await log.append(f"build-{key}", [NewEvent(fact, uuid4())])


async def _wake(log: MemoryEventLog, *items: PendingItem) -> None:
    for item in items:
        await log.append(item.stream_id, [NewEvent(BuildWoken(reason="refresh"), uuid4())])


async def test_a_crowd_comes_within_the_jitter_and_in_order(monkeypatch):
    monkeypatch.setattr(due_sleepers, "_PAGE", 10)
    log = MemoryEventLog()
    for number in range(100):
        await _sleep(log, f"b{number:03}")
    sleepers = DueSleepers(log, jitter_s=60)
    came: list[tuple[float, str]] = []
    for second in range(62):
        now = MIDNIGHT + timedelta(seconds=second)
        items = await sleepers.take(now, 500)
        for item in items:
            moment = sleepers.moment_of(item)
            assert timedelta(0) <= now - moment < timedelta(seconds=1)
            came.append(((moment - MIDNIGHT).total_seconds(), item.key))
        await _wake(log, *items)
    assert len(came) == 100
    assert came == sorted(came)


async def test_one_that_was_put_back_hides_no_other(monkeypatch):
    monkeypatch.setattr(due_sleepers, "_PAGE", 2)
    log, sleepers = MemoryEventLog(), None
    for key in ("a", "b", "c", "d", "e"):
        await _sleep(log, key)
    sleepers = DueSleepers(log, jitter_s=0)
    later = MIDNIGHT + timedelta(hours=1)
    for item in await sleepers.take(MIDNIGHT, 3):
        sleepers.put_back(item.key, later)
    rest = await sleepers.take(MIDNIGHT, 3)
    assert [item.key for item in rest] == ["d", "e"]
    await _wake(log, *rest)
    assert await sleepers.take(MIDNIGHT, 3) == []
    assert [item.key for item in await sleepers.take(later, 3)] == ["a", "b", "c"]


async def test_one_that_was_not_woken_comes_again_and_a_woken_one_does_not():
    log = MemoryEventLog()
    await _sleep(log, "a")
    sleepers = DueSleepers(log, jitter_s=0)
    [item] = await sleepers.take(MIDNIGHT, 9)
    assert [one.key for one in await sleepers.take(MIDNIGHT, 9)] == ["a"]
    await _wake(log, item)
    assert await sleepers.take(MIDNIGHT, 9) == []
    await _sleep(log, "a", MIDNIGHT + timedelta(seconds=9))
    assert await sleepers.take(MIDNIGHT, 9) == []
    [again] = await sleepers.take(MIDNIGHT + timedelta(seconds=9), 9)
    assert again.version > item.version


async def test_a_sleeper_with_an_earlier_time_is_found_in_a_crowd(monkeypatch):
    monkeypatch.setattr(due_sleepers, "_PAGE", 4)
    log = MemoryEventLog()
    for number in range(12):
        await _sleep(log, f"b{number:02}")
    sleepers = DueSleepers(log, jitter_s=3600)
    await sleepers.take(MIDNIGHT, 9)
    await _sleep(log, "z", MIDNIGHT - timedelta(hours=2))
    assert [item.key for item in await sleepers.take(MIDNIGHT, 9)] == ["z"]
    await _sleep(log, "b05x")  # behind the first page, before where the look stopped
    found = []
    for second in range(0, 3700, 10):
        items = await sleepers.take(MIDNIGHT + timedelta(seconds=second), 99)
        found += [item.key for item in items]
        await _wake(log, *items)
    assert "b05x" in found
    assert len(found) == 14
