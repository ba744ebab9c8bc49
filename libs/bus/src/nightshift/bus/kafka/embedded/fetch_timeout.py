"""Adapts the time limit of a consumer's fetches at the embedded broker.

To answer a fetch, that broker scans every batch of a partition with new records: about one millisecond for a thousand
batches. At the time limit, it answers with the records found so far. A limit that is always too short would never
return the records. So after incomplete answers the limit grows, and after complete ones it shrinks again.
"""

from collections.abc import Callable

_LONGEST_MS = 5000
_EASE = 0.98  # factor per complete fetch: halves the time within 35 fetches


class FetchTimeout:
    """Sets the time limit (milliseconds) of one consumer's fetches: the one given to `ask`, or a longer one while
    answers are incomplete.
    """

    def __init__(self, setter: Callable[[int], None]) -> None:
        """`setter` sets the time limit of the consumer's next fetches."""
        self._setter = setter
        self._asked = 0
        self._needed = 0.0
        self._in_vain = 0
        self._set = 0

    def ask(self, wait_ms: int) -> None:
        """Set the shortest time limit to use, `wait_ms` milliseconds."""
        self._asked = wait_ms
        self._apply()

    def fetched(self, *, found: bool, missed: bool) -> None:
        """Adapt the time limit to the result of a fetch.

        `found`: the fetch returned records. `missed`: the broker reported more records in a partition than it returned.
        """
        if not missed:
            self._in_vain = 0
            if found:
                self._needed = self._needed * _EASE if self._needed > self._asked else 0.0
        else:
            self._in_vain += 1
            # One miss alone means nothing: the broker counts a batch shortly before a fetch can return it.
            if self._in_vain > 1:
                self._needed = min(2 * max(self._needed, self._asked), _LONGEST_MS)
        self._apply()

    def _apply(self) -> None:
        wait = max(self._asked, round(self._needed))
        if wait != self._set:
            self._set = wait
            self._setter(wait)
