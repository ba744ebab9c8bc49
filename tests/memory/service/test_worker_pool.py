"""The worker pool and the pending poller: bounded work, one per key, the newest offer kept, drained at the stop."""

import asyncio
from datetime import UTC, datetime

import pytest
from tests.support.waiting import eventually

from nightshift.contracts.model import PendingKind
from nightshift.eventlog.backoff import Backoff
from nightshift.eventlog.errors import Transient, Unavailable
from nightshift.eventlog.port import PendingItem
from nightshift.servicekit.pending_poller import PendingPoller
from nightshift.servicekit.worker_pool import WorkerPool


class Bench:
    """Makes works that wait for `go`, and records how many ran at once."""

    def __init__(self) -> None:
        self.now: list[str] = []
        self.most = 0
        self.done: list[str] = []
        self.go = asyncio.Event()

    def work(self, name: str):
        async def run() -> None:
            self.now.append(name)
            self.most = max(self.most, len(self.now))
            try:
                await self.go.wait()
                self.done.append(name)
            finally:
                self.now.remove(name)

        return run


async def test_the_pool_runs_no_more_than_its_limit():
    bench = Bench()
    async with WorkerPool("t", limit=2) as pool:
        for name in "abc":
            pool.offer(name, bench.work(name))
        await eventually(lambda: len(bench.now) == 2)
        assert pool.full
        waiting = asyncio.create_task(pool.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        bench.go.set()
        await asyncio.wait_for(waiting, 5)
        await eventually(lambda: sorted(bench.done) == ["a", "b", "c"])
        assert not pool.full
    assert bench.most == 2


async def test_a_key_runs_once_at_a_time_and_keeps_the_newest():
    bench = Bench()
    async with WorkerPool("t", limit=5) as pool:
        pool.offer("k", bench.work("first"))
        await eventually(lambda: bench.now == ["first"])
        pool.offer("k", bench.work("second"))
        pool.offer("k", bench.work("third"))
        await asyncio.sleep(0)
        assert bench.now == ["first"]
        assert pool.holds("k")
        bench.go.set()
        await eventually(lambda: not pool.holds("k"))
    assert bench.done == ["first", "third"]
    assert bench.most == 1


@pytest.mark.parametrize("error", [Transient("busy"), RuntimeError("bug")])
async def test_failed_work_frees_its_place(error):
    async def fail() -> None:
        raise error

    bench = Bench()
    bench.go.set()
    async with WorkerPool("t", limit=1) as pool:
        pool.offer("a", fail)
        pool.offer("b", bench.work("b"))
        await eventually(lambda: bench.done == ["b"])
        assert not pool.full


async def test_leaving_waits_for_the_bound_and_cancels_the_rest():
    quick, slow = Bench(), Bench()
    quick.go.set()
    async with WorkerPool("t", limit=2, drain_s=0.2) as pool:
        pool.offer("slow", slow.work("slow"))
        pool.offer("quick", quick.work("quick"))
        pool.offer("never", quick.work("never"))
    assert quick.done == ["quick"]
    assert (slow.done, slow.now) == ([], [])
    assert not pool.offer("late", quick.work("late"))


async def test_a_paused_pool_begins_nothing_until_it_is_resumed():
    bench = Bench()
    bench.go.set()
    async with WorkerPool("t", limit=2) as pool:
        pool.pause(True)
        pool.offer("a", bench.work("a"))
        assert (pool.full, pool.work.held, pool.work.room) == (True, 0, 0)
        pool.pause(False)
        await eventually(lambda: bench.done == ["a"])
        assert not pool.full


async def test_leaving_waits_as_long_as_nothing_cuts_it_short():
    slow, cut_short = Bench(), asyncio.Event()
    async with WorkerPool("t", limit=1, drain_s=0, cut_short=cut_short) as pool:
        pool.offer("slow", slow.work("slow"))
        await eventually(lambda: slow.now == ["slow"])
        asyncio.get_running_loop().call_later(0.05, slow.go.set)
    assert slow.done == ["slow"]


async def test_leaving_cancels_at_once_when_it_is_cut_short():
    slow, cut_short = Bench(), asyncio.Event()
    cut_short.set()
    async with asyncio.timeout(5), WorkerPool("t", limit=1, cut_short=cut_short) as pool:
        pool.offer("slow", slow.work("slow"))
        await eventually(lambda: slow.now == ["slow"])
    assert slow.now == []


class Log:
    """A log with these pending items. Its first `away` reads raise Unavailable."""

    def __init__(self, keys: list[str]) -> None:
        self.keys, self.asked, self.away = sorted(keys), 0, 0

    async def pending(self, kind, *, due_before=None, limit=1000, after_key=""):
        self.asked += 1
        if self.away:
            self.away -= 1
            raise Unavailable("no database")
        keys = [key for key in self.keys if key > after_key][:limit]
        return [PendingItem(kind, key, f"build-{key}", 1, datetime.now(UTC), None) for key in keys]


async def test_the_poller_hands_over_every_page():
    found = []

    async def take(item: PendingItem) -> None:
        found.append(item.key)

    log = Log([f"k{n:02}" for n in range(25)])
    assert await PendingPoller(log, PendingKind.TOOL_CALL, take, page=10).look() == 25
    assert found == log.keys


async def test_the_poller_polls_at_the_start_and_soon_after_a_failure():
    found = []

    async def take(item: PendingItem) -> None:
        found.append(item.key)

    log = Log(["a"])
    log.away = 2
    soon = Backoff(first_s=0.01, cap_s=0.01)
    poller = PendingPoller(log, PendingKind.BUILD, take, every_s=3600, backoff=soon)
    running = asyncio.create_task(poller.run())
    try:
        await eventually(lambda: found == ["a"])
    finally:
        running.cancel()


async def test_the_poller_polls_again_at_each_interval():
    found = []

    async def take(item: PendingItem) -> None:
        found.append(item.key)

    poller = PendingPoller(Log(["a"]), PendingKind.BUILD, take, every_s=0.01)
    running = asyncio.create_task(poller.run())
    try:
        await eventually(lambda: found[:3] == ["a", "a", "a"])
    finally:
        running.cancel()


async def test_the_poller_waits_at_a_full_gate():
    bench, taken = Bench(), []
    async with WorkerPool("t", limit=1) as pool:

        async def take(item: PendingItem) -> None:
            taken.append(item.key)
            pool.offer(item.key, bench.work(item.key))

        looking = asyncio.create_task(
            PendingPoller(Log(["a", "b", "c"]), PendingKind.BUILD, take, gate=pool).look()
        )
        await eventually(lambda: bench.now == ["a"])
        for _ in range(5):
            await asyncio.sleep(0)
        assert taken == ["a"]
        bench.go.set()
        assert await asyncio.wait_for(looking, 5) == 3
    assert bench.most == 1


async def test_one_account_never_has_all_places():
    """Eight builds of one account wait beside a build of another: it gets the next place, and one is always left."""
    bench = Bench()
    async with WorkerPool("t", limit=4, share_of=lambda key: key[0]) as pool:
        for number in range(8):
            pool.offer(f"a{number}", bench.work(f"a{number}"))
        await eventually(lambda: len(bench.now) == 3)
        pool.offer("b0", bench.work("b0"))
        await eventually(lambda: "b0" in bench.now)
        pool.offer("b1", bench.work("b1"))
        bench.go.set()
        await eventually(lambda: len(bench.done) == 10)
    assert bench.done.index("b1") < bench.done.index("a5"), "it runs before those that waited longer"
