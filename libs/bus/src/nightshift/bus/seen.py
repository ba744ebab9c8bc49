"""Remembers the last handled version of each stream, so that a repeated message is skipped."""

from collections import OrderedDict


class SeenSequences:
    """The last handled sequence (version) of up to `capacity` subjects (streams) of one subscription.

    Above the capacity it forgets the subject used longest ago. An event of a forgotten subject may be handled twice,
    which is harmless: derived event ids make the second append a no-op.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._last: OrderedDict[str, int] = OrderedDict()

    def is_stale(self, subject: str, sequence: int) -> bool:
        """Return whether this sequence of the subject, or a higher one, was already handled."""
        last = self._last.get(subject)
        return last is not None and sequence <= last

    def advance(self, subject: str, sequence: int) -> None:
        """Remember that this sequence of the subject was handled. Does nothing when a higher one was handled before."""
        last = self._last.get(subject)
        if last is None or sequence > last:
            self._last[subject] = sequence
        self._last.move_to_end(subject)
        if len(self._last) > self._capacity:
            self._last.popitem(last=False)
