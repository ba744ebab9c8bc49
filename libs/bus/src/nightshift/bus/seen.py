"""Remembers the last handled sequence per subject, so that a repeated message is skipped."""

from collections import OrderedDict


class SeenSequences:
    """One subscription's memory. Forgets the oldest subjects; handling one again is harmless (derived ids)."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._last: OrderedDict[str, int] = OrderedDict()

    def is_stale(self, subject: str, sequence: int) -> bool:
        """Whether this sequence of the subject, or a later one, was handled before."""
        last = self._last.get(subject)
        return last is not None and sequence <= last

    def advance(self, subject: str, sequence: int) -> None:
        """Remember that this sequence was handled. A lower one than before changes nothing."""
        last = self._last.get(subject)
        if last is None or sequence > last:
            self._last[subject] = sequence
        self._last.move_to_end(subject)
        if len(self._last) > self._capacity:
            self._last.popitem(last=False)
