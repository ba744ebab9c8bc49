"""Keeps the folded states of recently read builds, so that a read fetches only new events."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Generic, TypeVar

from nightshift.eventlog.port import EventLog, RecordedEvent, build_stream

S = TypeVar("S")


@dataclass(eq=False, slots=True)
class FoldCache(Generic[S]):
    """Folds build streams, and keeps the `size` states that were read most recently.

    `initial` returns the state of a build without events, for its id. `evolve` returns the state after one more event,
    and must not change the state it receives.
    """

    log: EventLog
    initial: Callable[[str], S]
    evolve: Callable[[S, RecordedEvent], S]
    _: KW_ONLY
    size: int = 2_000
    _folded: OrderedDict[str, tuple[int, S]] = field(default_factory=OrderedDict, init=False)

    async def read(self, build_id: str) -> S:
        """Return the state after the newest event of the build's stream. Reads only events that are not folded yet."""
        version, state = self._folded.get(build_id) or (0, self.initial(build_id))
        async for event in self.log.read_stream(build_stream(build_id), from_version=version + 1):
            version, state = event.version, self.evolve(state, event)
        kept = self._folded.get(build_id)
        if (
            kept is None or kept[0] <= version
        ):  # otherwise a read that began later has already stored a newer state
            self._folded[build_id] = version, state
        self._folded.move_to_end(build_id)
        if len(self._folded) > self.size:
            self._folded.popitem(last=False)
        return state
