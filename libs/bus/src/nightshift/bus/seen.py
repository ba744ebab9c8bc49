"""Which sequence was handled last per subject, so that a re-send changes nothing. Bounded: the oldest go."""

from collections import OrderedDict


class SeenSequences:
    """One subscription's memory. A subject that was forgotten is handled again, which derived ids make harmless."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._last: OrderedDict[str, int] = OrderedDict()

    def is_stale(self, subject: str, sequence: int) -> bool:
        """Whether this one, or one after it, was handled before."""
        last = self._last.get(subject)
        return last is not None and sequence <= last

    def advance(self, subject: str, sequence: int) -> None:
        """This one was handled. Never goes back."""
        last = self._last.get(subject)
        if last is None or sequence > last:
            self._last[subject] = sequence
        self._last.move_to_end(subject)
        if len(self._last) > self._capacity:
            self._last.popitem(last=False)
