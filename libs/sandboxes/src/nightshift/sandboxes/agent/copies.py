"""Keeps the content of files that are about to be overwritten, as a clone, a copy or a hard link."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from typing import BinaryIO

from .guard import Guard, clone, is_copied_now, new_copy, unfinished
from .rows import CTIME, INODE, KIND, SIZE, Row, same_content, stat_key, stat_row
from .walk import open_file
from .wire import CHUNK

#: Files from this size on are copied in the background.
_LARGE = 1024 * 1024


class Copies:
    """The kept contents of files in one folder. Each method finds a kept content by the file's row (see rows.py)."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def take(self, parent: int, name: str, row: Row, deadline: float, guard: Guard) -> bool:
        """Keep the content of the file `name` in the directory `parent`. Returns False when the file no longer has the
        stat of `row`.

        Copies a small file at once while `deadline` (monotonic time) is not over, and passes others to `guard`, which
        copies them in the background. If the guard refuses, copies until the deadline. If the copy is not complete by
        then, makes a hard link, which does not protect from writes into the same file.
        """
        path = self._path(row)
        if os.path.exists(path) or is_copied_now(path):
            return True
        with open_file(parent, name) as file:

            def unchanged() -> bool:
                return same_content(row, stat_row(os.fstat(file.fileno())))

            small = row[SIZE] < _LARGE and time.monotonic() < deadline
            if not small and guard.add(file, path, unchanged):
                return True
            if time.monotonic() < deadline and _copy(file, path, deadline):
                return unchanged()
        with contextlib.suppress(FileExistsError):
            os.link(name, self._link(row), src_dir_fd=parent, follow_symlinks=False)
        return True

    def matches(self, row: Row, now: os.stat_result) -> bool:
        """Return whether the content that `open` returned for this row is the one that the row describes.

        `now` is the stat of the opened file. A copy always matches. A hard link matches when its mode, size and
        modification time are those of the row, because linking changes the ctime. When neither exists any more, the
        whole stat must be equal.
        """
        if os.path.exists(self._path(row)):
            return True
        if os.path.exists(self._link(row)):
            return stat_key(now)[:3] == row[1:CTIME]
        return same_content(row, stat_row(now))

    def open(self, row: Row) -> BinaryIO | None:
        """Open the kept content of the file with this row, and wait until a copy in progress is complete.

        Returns None when nothing is kept.
        """
        if row[KIND] == "file":
            is_copied_now(self._path(row), wait=True)
            for path in (self._path(row), self._link(row)):
                with contextlib.suppress(FileNotFoundError):
                    return open(path, "rb", buffering=0)
        return None

    def keep(self, rows: Iterable[Row]) -> None:
        """Remove all kept contents except those of these rows."""
        wanted = {
            path for row in rows for path in (self._path(row), unfinished(self._path(row)), self._link(row))
        }
        for name in os.listdir(self.folder):
            path = os.path.join(self.folder, name)
            if path not in wanted:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _path(self, row: Row) -> str:
        return os.path.join(self.folder, f"{row[INODE]:x}-{row[CTIME]:x}-{row[SIZE]:x}")

    def _link(self, row: Row) -> str:
        return os.path.join(self.folder, f"{row[INODE]:x}-link")


def _copy(file: BinaryIO, path: str, deadline: float) -> bool:
    """Clone or copy an open file to `path`. Returns False and leaves no file when the deadline is over or the disk is
    full.
    """
    handle = new_copy(path)
    try:
        with os.fdopen(handle, "wb", buffering=0) as copy:
            if not clone(file.fileno(), handle):
                for chunk in iter(lambda: file.read(CHUNK), b""):
                    if time.monotonic() > deadline:
                        raise TimeoutError
                    left = memoryview(chunk)
                    while left:
                        left = left[copy.write(left) :]
        os.rename(unfinished(path), path)
    except OSError:
        os.unlink(unfinished(path))
        return False
    return True
