"""How long one consumer's fetches must be allowed at the embedded broker, so that it finds what is there.

That broker looks through every batch of a partition that has something new, about a millisecond for a thousand, and
when the fetch's wait is over meanwhile it answers without what it did not reach. A wait that is always too short is a
consumer that never again gets anything. So a fetch in vain makes the next ones longer, and what is found eases it.
"""

from collections.abc import Callable

_LONGEST_MS = 5000
_EASE = (
    0.98  # per fetch that found something and missed nothing: half after 35, so that few are spent on trying
)


class Look:
    """The wait of one consumer: what the pace asks for, or more where that was too short. Milliseconds."""

    def __init__(self, setter: Callable[[int], None]) -> None:
        """`setter` sets the wait of the consumer's next fetches."""
        self._setter = setter
        self._asked = 0
        self._needed = 0.0
        self._in_vain = 0
        self._set = 0

    def ask(self, wait_ms: int) -> None:
        """The pace's word."""
        self._asked = wait_ms
        self._apply()

    def fetched(self, *, found: bool, missed: bool) -> None:
        """What came of a fetch. `missed`: the broker told of more in a partition than it gave."""
        if not missed:
            self._in_vain = 0
            if found:
                self._needed = self._needed * _EASE if self._needed > self._asked else 0.0
        else:
            self._in_vain += 1
            # Once means nothing: the broker counts a batch a moment before it can be found.
            if self._in_vain > 1:
                self._needed = min(2 * max(self._needed, self._asked), _LONGEST_MS)
        self._apply()

    def _apply(self) -> None:
        wait = max(self._asked, round(self._needed))
        if wait != self._set:
            self._set = wait
            self._setter(wait)
