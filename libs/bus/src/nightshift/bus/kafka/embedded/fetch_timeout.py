"""How long one consumer's fetches wait at the embedded broker, so that they find what is there.

To answer a fetch, that broker goes through every batch of a partition with new records: about a millisecond for a
thousand batches. When the fetch's wait ends first, it answers without the rest. A wait that is always too short would
never return anything, so an empty answer lengthens the next waits, and a full one shortens them again.
"""

from collections.abc import Callable

_LONGEST_MS = 5000
_EASE = 0.98  # per fetch that found something and missed nothing: half after 35


class FetchTimeout:
    """Sets how long one consumer's fetches wait (milliseconds): as asked for, or longer while that is too short."""

    def __init__(self, setter: Callable[[int], None]) -> None:
        """`setter` sets the wait of the consumer's next fetches."""
        self._setter = setter
        self._asked = 0
        self._needed = 0.0
        self._in_vain = 0
        self._set = 0

    def ask(self, wait_ms: int) -> None:
        """Set the shortest wait."""
        self._asked = wait_ms
        self._apply()

    def fetched(self, *, found: bool, missed: bool) -> None:
        """Adapt to a fetch. `missed`: the broker reported more in a partition than it returned."""
        if not missed:
            self._in_vain = 0
            if found:
                self._needed = self._needed * _EASE if self._needed > self._asked else 0.0
        else:
            self._in_vain += 1
            # A single miss means nothing: the broker counts a batch a moment before a fetch can find it.
            if self._in_vain > 1:
                self._needed = min(2 * max(self._needed, self._asked), _LONGEST_MS)
        self._apply()

    def _apply(self) -> None:
        wait = max(self._asked, round(self._needed))
        if wait != self._set:
            self._set = wait
            self._setter(wait)
