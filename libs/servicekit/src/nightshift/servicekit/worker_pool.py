"""Runs long work outside the message handlers: keyed tasks, bounded in number, one at a time per key.

The places are shared: no account can take all of them, and a free place goes to the account that holds fewest.
Consumers wait while the pool is full. Work that a crash loses is still pending in the log; PendingPoller finds it.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Self

import structlog
from prometheus_client import Gauge

from nightshift.eventlog.errors import NightshiftError
from nightshift.eventlog.trace_context import CURRENT

Work = Callable[[], Awaitable[None]]

#: How many works may wait for each place before the pool counts as full.
_WAITING = 4

_log = structlog.get_logger(__name__)

_IN_FLIGHT = Gauge("nightshift_work_in_flight", "Keyed work that runs or waits in a worker pool.", ["pool"])


class WorkerPool:
    """Runs up to `limit` works at once. Leaving the context waits `drain_s` seconds, then cancels what still runs.

    Each key runs one work at a time. While it runs, the newest offer under its key waits and replaces older ones.
    `share_of` returns the share of a key, such as its account. With None the key has a share of its own. One share
    takes at most three quarters of the places.
    """

    def __init__(
        self,
        name: str,
        *,
        limit: int,
        drain_s: float = 10.0,
        share_of: Callable[[str], str | None] = lambda key: None,
    ) -> None:
        self._name = name
        self._share_of = share_of
        self._most_of_share = max(1, limit - max(1, limit // 4))
        self._limit = limit
        self._drain_s = drain_s
        self._running: dict[str, asyncio.Task[None]] = {}
        self._waiting: OrderedDict[str, Work] = OrderedDict()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._closing = False
        self._gauge = _IN_FLIGHT.labels(name)

    @property
    def held(self) -> int:
        """The number of keys that run or wait."""
        return len(self._running.keys() | self._waiting.keys())

    @property
    def full(self) -> bool:
        """Whether callers should offer nothing more. True also while the pool closes."""
        return not self._has_room.is_set()

    async def room(self) -> None:
        """Wait until the pool is not full."""
        await self._has_room.wait()

    def holds(self, key: str) -> bool:
        """Whether work under this key runs or waits."""
        return key in self._running or key in self._waiting

    def offer(self, key: str, work: Work) -> bool:
        """Accept this work without waiting. Returns False while the pool closes; the log still holds the work then.

        A full pool accepts work too, because several partitions may find room at once. It never runs more than `limit`.
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
            _done, late = await asyncio.wait(running, timeout=self._drain_s)
            for task in late:
                task.cancel()
            if late:
                _log.warning("work.cancelled", pool=self._name, works=len(late))
                await asyncio.gather(*late, return_exceptions=True)

    def _start_waiting(self) -> None:
        while len(self._running) < self._limit and (key := self._next()) is not None:
            work = self._waiting.pop(key)
            self._running[key] = asyncio.create_task(self._run(key, work), name=f"{self._name} {key}")
        self._gauge.set(self.held)
        # Works whose share is used up wait here, so that the works of others behind them are still read.
        if (
            len(self._running) < self._limit
            and len(self._waiting) < _WAITING * self._limit
            and not self._closing
        ):
            self._has_room.set()
        else:
            self._has_room.clear()

    def _next(self) -> str | None:
        """The key to start now: the oldest of the share that runs fewest. Returns None when none may start."""
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
