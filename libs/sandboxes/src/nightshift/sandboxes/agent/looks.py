"""Remembers which part of a background call's output has been read."""

from __future__ import annotations

from typing import NamedTuple

#: The most bytes of each stream in the answer to a look.
SHOWN = 256 * 1024


class Look(NamedTuple):
    """The part of a call's stdout and stderr that the call `reader` has read: from `start` to `end`, in bytes per
    stream.
    """

    reader: str = ""
    start: tuple[int, ...] = (0, 0)
    end: tuple[int, ...] = (0, 0)

    def next(self, reader: str, total: tuple[int, ...]) -> Look:
        """Return the next part to read, for the call `reader`. The part ends at the byte counts `total`.

        It starts where the last part ended. If the same call asks again, the part starts where that call's last part
        started.
        """
        return Look(reader, self.start if reader == self.reader else self.end, total)
