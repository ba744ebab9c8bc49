"""Sees a consumer that should make progress and makes none, which aiokafka is known for, and says so once."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from nightshift.bus.port import GroundProbe
from nightshift.eventlog.errors import Fault, Transient

_log = structlog.get_logger(__name__)


class Watched(Protocol):
    """One subscription under watch."""

    @property
    def name(self) -> str: ...

    @property
    def progress(self) -> int:
        """Grows with each message settled."""
        ...

    @property
    def excused(self) -> bool:
        """Whether it waits on purpose: for a retry, the ground, room."""
        ...

    def check(self) -> None:
        """Raises Fault when the client has ended by itself."""
        ...

    async def behind(self) -> int:
        """Messages between its position and the end; 1 when it has no partitions yet. Raises Transient."""
        ...


@dataclass(slots=True)
class _State:
    progress: int
    since: float  # when it last made progress, was not behind, or had an excuse
    looked: float


class Watchdog:
    """`failed` is set when a consumer was behind for `limit_s` and settled nothing: end the process then."""

    def __init__(
        self,
        watched: Sequence[Watched],
        *,
        ground: GroundProbe | None = None,
        limit_s: float = 60.0,
        look_every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failed = asyncio.Event()
        self._ground = ground
        self._limit_s = limit_s
        self._look_every_s = look_every_s
        self._clock = clock
        now = clock()
        self._states = [(each, _State(each.progress, now, now)) for each in watched]

    async def look(self) -> None:
        """Called about once a second. Asks the broker only about a consumer that has been quiet for a while."""
        for each, state in self._states:
            try:
                each.check()
            except Fault as error:
                self._fail("consumer has ended", each, error=str(error))
                continue
            now = self._clock()
            if each.progress != state.progress or each.excused:
                state.progress, state.since = each.progress, now
                continue
            if now - max(state.since, state.looked) < self._look_every_s:
                continue
            state.looked = now
            if not await self._is_behind(each):
                state.since = self._clock()
            elif self._clock() - state.since >= self._limit_s and not self.failed.is_set():
                _log.error(
                    "consumer is stuck", consumer=each.name, seconds=round(self._clock() - state.since)
                )
                self.failed.set()

    def _fail(self, what: str, each: Watched, **details: object) -> None:
        if not self.failed.is_set():
            _log.error(what, consumer=each.name, **details)
            self.failed.set()

    async def _is_behind(self, each: Watched) -> bool:
        """A broker or a database that does not answer is no reason to end: nothing could make progress."""
        if self._ground is not None and not await self._ground():
            return False
        try:
            return await each.behind() > 0
        except Transient:
            return False
