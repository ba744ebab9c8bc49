"""Runs long work outside the message handlers, so that no model call or tool call delays other messages of its
partition.

Consumers wait while the pool is full. Work that is lost in a crash still has its pending row; PendingPoller finds it.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Self

import structlog
from prometheus_client import Gauge

from nightshift.eventlog.errors import NightshiftError
from nightshift.eventlog.trace_context import CURRENT
from nightshift.servicekit.replicas import Work as Counted

Work = Callable[[], Awaitable[None]]

#: How many waiting keys per slot make the pool full.
_WAITING = 4

_log = structlog.get_logger(__name__)

_IN_FLIGHT = Gauge("nightshift_work_in_flight", "Keyed work that runs or waits in a worker pool.", ["pool"])


class WorkerPool:
    """Runs up to `limit` pieces of work at the same time. Each has a key, such as a build id.

    Work with the same key never runs at the same time. Work offered meanwhile waits, and a newer offer with the same
    key replaces it.

    `share_of` returns the group to which a key belongs, such as its account. If it returns None, the key is a group of
    its own. A group gets at most three quarters of the slots, and a free slot goes to the group that has the fewest.

    When the context ends, running work may go on until `cut_short` is set, or for `drain_s` seconds without a
    `cut_short`. Then it is cancelled.
    """

    def __init__(
        self,
        name: str,
        *,
        limit: int,
        drain_s: float = 10.0,
        cut_short: asyncio.Event | None = None,
        share_of: Callable[[str], str | None] = lambda key: None,
    ) -> None:
        self._name = name
        self._share_of = share_of
        self._most_of_share = max(1, limit - max(1, limit // 4))
        self._limit = limit
        # A service sets `cut_short` in time before its own limit, so that there is one setting for both.
        self._drain_s = drain_s if cut_short is None else None
        self._cut_short = cut_short or asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._waiting: OrderedDict[str, Work] = OrderedDict()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._closing = False
        self._paused = False
        self._gauge = _IN_FLIGHT.labels(name)

    @property
    def held(self) -> int:
        """The number of keys whose work runs or waits."""
        return len(self._running.keys() | self._waiting.keys())

    @property
    def work(self) -> Counted:
        """How many keys have running work, and how many more the pool could run now. While the pool is paused, the
        second number is 0.
        """
        return Counted(len(self._running), 0 if self._paused else self._limit - len(self._running))

    def pause(self, paused: bool) -> None:
        """If `paused`, begin no more work and report the pool as full; running work continues. Otherwise begin the
        waiting work.
        """
        self._paused = paused
        self._start_waiting()

    @property
    def full(self) -> bool:
        """Whether the pool has enough work, so that callers should offer no more. Also True while it closes."""
        return not self._has_room.is_set()

    async def room(self) -> None:
        """Wait until the pool is not full."""
        await self._has_room.wait()

    def holds(self, key: str) -> bool:
        """Return whether work with this key runs or waits."""
        return key in self._running or key in self._waiting

    def offer(self, key: str, work: Work) -> bool:
        """Accept work with a key without waiting. A full pool accepts work too, which then waits for a free slot.

        Returns False while the pool closes. The work's pending row then stays in the log, so that another process does
        the work.
        """
        if self._closing:
            return False
        self._waiting[key] = work
        self._start_waiting()
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closing = True
        self._has_room.clear()
        self._waiting.clear()
        running = list(self._running.values())
        if running:
            # Where a crashed process is closed there is no loop: this raises before anything is made.
            loop = asyncio.get_running_loop()
            cut = loop.create_task(self._cut_short.wait(), name=f"{self._name} cut short")
            ends: set[asyncio.Future[Any]] = {asyncio.gather(*running, return_exceptions=True), cut}
            await asyncio.wait(ends, timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED)
            cut.cancel()
            late = [task for task in running if not task.done()]
            for task in late:
                task.cancel()
            if late:
                _log.warning("work.cancelled", pool=self._name, works=len(late))
                await asyncio.gather(*late, return_exceptions=True)

    def _start_waiting(self) -> None:
        while not self._paused and len(self._running) < self._limit and (key := self._next()) is not None:
            work = self._waiting.pop(key)
            self._running[key] = asyncio.create_task(self._run(key, work), name=f"{self._name} {key}")
        self._gauge.set(self.held)
        # Work whose share has no slot left waits here, so that the pool still takes work of other shares.
        if (
            len(self._running) < self._limit
            and len(self._waiting) < _WAITING * self._limit
            and not self._closing
            and not self._paused
        ):
            self._has_room.set()
        else:
            self._has_room.clear()

    def _next(self) -> str | None:
        """Return the waiting key whose work starts next: in the group with the fewest slots, the key that has waited
        longest.

        Returns None when no waiting key may start now. `share_of` gives the groups.
        """
        running = Counter(self._share(key) for key in self._running)
        ready = [key for key in self._waiting if key not in self._running]
        ready = [key for key in ready if running[self._share(key)] < self._most_of_share]
        return min(ready, key=lambda key: running[self._share(key)], default=None)

    def _share(self, key: str) -> tuple[str, str]:
        share = self._share_of(key)
        return ("key", key) if share is None else ("share", share)

    async def _run(self, key: str, work: Work) -> None:
        CURRENT.set(None)  # the task began in the context of other work
        try:
            with structlog.contextvars.bound_contextvars(work=key):
                try:
                    await work()
                except NightshiftError as error:
                    _log.warning("work.failed", pool=self._name, error=f"{type(error).__name__}: {error}")
                except Exception as error:  # noqa: BLE001 - the boundary of a work: the log still holds it
                    _log.error("work.failed", pool=self._name, exc_info=error)
        finally:
            del self._running[key]
            self._start_waiting()
