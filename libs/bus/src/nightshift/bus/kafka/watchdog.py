"""Detects partitions that have messages but make no progress. Each partition is judged separately."""

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

#: Stands for a consumer without partitions: when it stays without them for too long, it has failed.
UNASSIGNED: Final = -1
_UNASSIGNED = {UNASSIGNED: Progress(0, waiting=False, busy=True)}


class Watched(Protocol):
    """One subscription that the watchdog observes."""

    @property
    def name(self) -> str: ...

    @property
    def partitions(self) -> Mapping[int, Progress]:
        """The progress of each assigned partition, by partition number. Empty while none is assigned."""
        ...

    def check(self) -> None:
        """Raise Fault when the Kafka client has ended by itself."""
        ...

    async def unread(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Return how many offsets lie between the client's position and the end, for each of these partitions.

        Raises Transient when the broker does not answer.
        """
        ...


@dataclass(slots=True)
class _State:
    settled: int
    since: float  # when it last made progress, had no message, or waited on purpose
    asked: float  # when the broker was last asked for the end of the partition


class Watchdog:
    """Sets `failed` when a partition had messages for `limit_s` seconds and settled none. The process should then
    exit.
    """

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
        """Judge every partition once.

        Call it about once a second; it asks the broker only about partitions without progress.
        """
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
        """Set `failed` when one of these partitions without progress is stuck.

        No partition counts as stuck while the broker or a dependency does not answer.
        """
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
