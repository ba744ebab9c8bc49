"""Where long work goes, so that no message is held for it: keyed tasks, bounded in number, one per key at a time.

Handlers take note and offer; a full workshop is the gate at which a service's consumers wait, so that the backlog is
seen as lag. What a crash loses here stands in the log, and an Inbox finds it again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

import structlog

from nightshift.contracts.model import PendingKind
from nightshift.runtime import metrics
from nightshift.runtime.errors import NightshiftError, Transient
from nightshift.runtime.log.port import EventLog, PendingItem

Work = Callable[[], Awaitable[None]]

_log = structlog.get_logger(__name__)


class Workshop:
    """Runs up to `limit` works at once. An async context manager: leaving waits `drain_s`, then cancels.

    Offering a key that is at work keeps the newest offer to run after it; older ones that did not begin are dropped.
    """

    def __init__(self, name: str, *, limit: int, drain_s: float = 10.0) -> None:
        if limit < 1:
            raise ValueError("a workshop needs room for one")
        self._name = name
        self._limit = limit
        self._drain_s = drain_s
        self._running: dict[str, asyncio.Task[None]] = {}
        self._waiting: OrderedDict[str, Work] = OrderedDict()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._closing = False
        self._gauge = metrics.IN_FLIGHT.labels(name)

    @property
    def held(self) -> int:
        """Keys at work or waiting."""
        return len(self._running.keys() | self._waiting.keys())

    @property
    def full(self) -> bool:
        """Whether nothing more should be taken. Also true while it closes."""
        return not self._has_room.is_set()

    async def room(self) -> None:
        """Returns when it is not full."""
        await self._has_room.wait()

    def holds(self, key: str) -> bool:
        """Whether this key is at work or waiting."""
        return key in self._running or key in self._waiting

    def offer(self, key: str, work: Work) -> bool:
        """Take this work; never waits. False while closing: then the log keeps it.

        A full workshop takes it too, and runs it when its turn comes: several partitions may have passed the gate at
        once. So what is held can pass the limit by the number of partitions, what runs never does.
        """
        if self._closing:
            return False
        self._waiting[key] = work
        self._start_what_may()
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
                _log.warning("work was cancelled at the stop", workshop=self._name, works=len(late))
                await asyncio.gather(*late, return_exceptions=True)

    def _start_what_may(self) -> None:
        for key in list(self._waiting):
            if len(self._running) >= self._limit:
                break
            if key not in self._running:
                work = self._waiting.pop(key)
                task = asyncio.create_task(self._run(key, work), name=f"{self._name} {key}")
                self._running[key] = task
        self._tell()

    def _tell(self) -> None:
        self._gauge.set(self.held)
        if self.held < self._limit and not self._closing:
            self._has_room.set()
        else:
            self._has_room.clear()

    async def _run(self, key: str, work: Work) -> None:
        try:
            with structlog.contextvars.bound_contextvars(work=key):
                try:
                    await work()
                except NightshiftError as error:
                    _log.warning("work failed", workshop=self._name, error=f"{type(error).__name__}: {error}")
                except Exception as error:  # noqa: BLE001 - the boundary of a work: the log still has it
                    _log.error("work failed", workshop=self._name, exc_info=error)
        finally:
            del self._running[key]
            self._start_what_may()


class Inbox:
    """Asks the log what waits, at the start and every so often, and hands it to `take`.

    `take` decides what to do with an item (a lease, an offer to a workshop) and must not wait for the work itself.
    """

    def __init__(
        self,
        log: EventLog,
        kind: PendingKind,
        take: Callable[[PendingItem], Awaitable[None]],
        *,
        gate: Workshop | None = None,
        every_s: float = 60.0,
        again_s: float = 2.0,
        page: int = 500,
    ) -> None:
        """`again_s`: how soon to ask again when the log could not answer."""
        self._log = log
        self._kind = kind
        self._take = take
        self._gate = gate
        self._every_s = every_s
        self._again_s = again_s
        self._page = page
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Look again now: something may have been left by another replica."""
        self._asked.set()

    async def run(self) -> None:
        """For as long as the service runs; spawn it."""
        while True:
            self._asked.clear()
            pause = self._every_s
            try:
                await self.look()
            except Transient as error:
                _log.warning("the log does not say what waits", kind=self._kind.value, error=str(error))
                pause = self._again_s
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._asked.wait()

    async def look(self) -> int:
        """Hand over all that waits now, page by page, waiting at the gate while it is full. Returns how many."""
        count, after = 0, ""
        while True:
            items = await self._log.pending(self._kind, limit=self._page, after_key=after)
            for item in items:
                if self._gate is not None and self._gate.full:
                    await self._gate.room()
                await self._take(item)
                count += 1
            if len(items) < self._page:
                return count
            after = items[-1].key
