"""Detects a partition that should make progress and makes none. Each partition is judged by itself."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from nightshift.bus.batch_intake import Progress
from nightshift.bus.port import DependencyProbe
from nightshift.eventlog.errors import Fault, Transient

_log = structlog.get_logger(__name__)

#: Stands for the partitions of a consumer that has none yet: it should be given some.
UNASSIGNED: Final = -1
_UNASSIGNED = {UNASSIGNED: Progress(0, waiting=False, busy=True)}


class Watched(Protocol):
    """One subscription under watch."""

    @property
    def name(self) -> str: ...

    @property
    def partitions(self) -> Mapping[int, Progress]:
        """The progress of each assigned partition. Empty while none is assigned."""
        ...

    def check(self) -> None:
        """Raises Fault when the client has ended by itself."""
        ...

    async def unread(self, partitions: Collection[int]) -> Mapping[int, int]:
        """The number of messages between the client's position and the end of these partitions. Raises Transient."""
        ...


@dataclass(slots=True)
class _State:
    settled: int
    since: float  # when it last made progress, had nothing to do, or waited on purpose
    asked: float  # when the broker was last asked about it


class Watchdog:
    """Sets `failed` when a partition had messages for `limit_s` and settled none: the process should end then."""

    def __init__(
        self,
        watched: Sequence[Watched],
        *,
        dependencies: DependencyProbe | None = None,
        limit_s: float = 60.0,
        look_every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failed = asyncio.Event()
        self._dependencies = dependencies
        self._limit_s = limit_s
        self._look_every_s = look_every_s
        self._clock = clock
        self._watched = [(each, dict[int, _State]()) for each in watched]

    async def look(self) -> None:
        """Judge every partition; called about once a second. Asks the broker only about quiet ones."""
        for each, states in self._watched:
            try:
                each.check()
            except Fault as error:
                self._fail("consumer.ended", consumer=each.name, error=str(error))
                continue
            progress = each.partitions or _UNASSIGNED
            for partition in states.keys() - progress.keys():
                del states[partition]
            quiet = [
                partition for partition, now in progress.items() if self._is_quiet(states, partition, now)
            ]
            if quiet:
                await self._judge(each, states, progress, quiet)

    def _is_quiet(self, states: dict[int, _State], partition: int, progress: Progress) -> bool:
        now = self._clock()
        state = states.get(partition)
        if state is None:
            states[partition] = _State(progress.settled, now, now)
            return False
        if progress.settled != state.settled or progress.waiting:
            state.settled, state.since = progress.settled, now
            return False
        return now - max(state.since, state.asked) >= self._look_every_s

    async def _judge(
        self, each: Watched, states: dict[int, _State], progress: Mapping[int, Progress], quiet: Sequence[int]
    ) -> None:
        """Set `failed` when a quiet partition is stuck, unless the broker or a dependency does not answer."""
        unread: Mapping[int, int] | None = None
        if self._dependencies is None or await self._dependencies():
            try:
                unread = await each.unread([partition for partition in quiet if partition != UNASSIGNED])
            except Transient:
                unread = None
        now = self._clock()
        for partition in quiet:
            state = states[partition]
            state.asked = now
            if unread is None or not (progress[partition].busy or unread.get(partition, 0) > 0):
                state.since = now
            elif now - state.since >= self._limit_s:
                self._fail(
                    "partition.stuck",
                    consumer=each.name,
                    partition=partition,
                    unread=unread.get(partition, 0),
                    seconds=round(now - state.since),
                )

    def _fail(self, event: str, **details: object) -> None:
        if not self.failed.is_set():
            _log.error(event, **details)
            self.failed.set()
