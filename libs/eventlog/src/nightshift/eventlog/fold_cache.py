"""Keeps the folded states of the builds read last, so that a read fetches only the events that are new."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from nightshift.eventlog.port import EventLog, RecordedEvent, build_stream

S = TypeVar("S")


class FoldCache(Generic[S]):
    """Folds build streams by `evolve`. Keeps up to `size` states; the one that was read longest ago goes first.

    `evolve` returns a new state and leaves the old one as it is, so callers may keep the states they were given.
    """

    def __init__(
        self,
        log: EventLog,
        initial: Callable[[str], S],
        evolve: Callable[[S, RecordedEvent], S],
        *,
        size: int = 2_000,
    ) -> None:
        """`initial` returns the state of a build id without events."""
        self._event_log = log
        self._initial = initial
        self._evolve = evolve
        self._size = size
        self._folded: OrderedDict[str, tuple[int, S]] = OrderedDict()

    async def read(self, build_id: str) -> S:
        """Return the state after the newest event of the build's stream."""
        version, state = self._folded.get(build_id) or (0, self._initial(build_id))
        async for event in self._event_log.read_stream(build_stream(build_id), from_version=version + 1):
            version, state = event.version, self._evolve(state, event)
        kept = self._folded.get(build_id)
        if kept is None or kept[0] <= version:  # else a read that began later has ended before
            self._folded[build_id] = version, state
        self._folded.move_to_end(build_id)
        if len(self._folded) > self._size:
            self._folded.popitem(last=False)
        return state
