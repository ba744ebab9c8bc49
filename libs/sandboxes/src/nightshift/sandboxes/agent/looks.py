"""Which part of the output of a call in the background has been read."""

from __future__ import annotations

from typing import NamedTuple

#: The most bytes of a stream in the answer to a look.
SHOWN = 256 * 1024


class Look(NamedTuple):
    """What the call `reader` has read of both streams: from `start` to `end`, in bytes."""

    reader: str = ""
    start: tuple[int, ...] = (0, 0)
    end: tuple[int, ...] = (0, 0)

    def next(self, reader: str, total: tuple[int, ...]) -> Look:
        """The look of this reader. One that repeats its look starts where it started before."""
        return Look(reader, self.start if reader == self.reader else self.end, total)
