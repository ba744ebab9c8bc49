"""Remembers which part of a background call's output has been read."""

from __future__ import annotations

from typing import NamedTuple

#: The most bytes of each stream in the answer to a look.
SHOWN = 256 * 1024


class Look(NamedTuple):
    """Which part of both streams the call `reader` has read: from `start` to `end`, in bytes."""

    reader: str = ""
    start: tuple[int, ...] = (0, 0)
    end: tuple[int, ...] = (0, 0)

    def next(self, reader: str, total: tuple[int, ...]) -> Look:
        """Return the next look, by this reader. A reader that repeats its look starts at the same place as before."""
        return Look(reader, self.start if reader == self.reader else self.end, total)
