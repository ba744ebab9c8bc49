"""Keeps the content of files that are about to be overwritten, as a clone, a copy or a hard link."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable
from typing import Any, BinaryIO

from .rows import CTIME, INODE, KIND, SIZE, Row
from .walk import open_file
from .wire import CHUNK

_FICLONE = 0x40049409
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Copies:
    """Kept contents of files in one folder. A file is found by its row (see rows.py)."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def take(self, parent: int, name: str, row: Row, deadline: float) -> bool:
        """Keep the content of the file with this row. Returns False when the file has changed meanwhile.

        Clones or copies until `deadline` (monotonic time), and makes hard links afterwards. A hard link is quick, but
        does not protect from writes into the same file.
        """
        path = self._path(row)
        if os.path.exists(path):
            return True
        if time.monotonic() < deadline:
            with open_file(parent, name) as file:
                if _copy(file, path, deadline):
                    return bool(os.fstat(file.fileno()).st_ctime_ns == row[CTIME])
        with contextlib.suppress(FileExistsError):
            os.link(name, self._link(row), src_dir_fd=parent, follow_symlinks=False)
        return True

    def matches(self, row: Row, now: list[Any]) -> bool:
        """Return whether the content that `open` returns, or else the file with the stat `now`, is still that of the
        row.

        A hard link changes the ctime, so then only mode, size and modification time are compared.
        """
        if os.path.exists(self._path(row)):
            return True
        return now[:3] == row[1:CTIME] if os.path.exists(self._link(row)) else now == row[1 : INODE + 1]

    def open(self, row: Row) -> BinaryIO | None:
        """Open the kept content for this row, or return None when there is none."""
        if row[KIND] == "file":
            for path in (self._path(row), self._link(row)):
                with contextlib.suppress(FileNotFoundError):
                    return open(path, "rb", buffering=0)
        return None

    def keep(self, rows: Iterable[Row]) -> None:
        """Remove all kept contents except those of these rows."""
        wanted = {path for row in rows for path in (self._path(row), self._link(row))}
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
    """Clone or copy an open file. When the time is over or the disk is full, leaves no file and returns False."""
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    handle = os.open(new, _NEW, 0o600)
    try:
        with os.fdopen(handle, "wb", buffering=0) as copy:
            try:
                fcntl.ioctl(handle, _FICLONE, file.fileno())
            except OSError:  # a file system without clones
                for chunk in iter(lambda: file.read(CHUNK), b""):
                    if time.monotonic() > deadline:
                        raise TimeoutError from None
                    left = memoryview(chunk)
                    while left:
                        left = left[copy.write(left) :]
        os.rename(new, path)
    except OSError:
        os.unlink(new)
        return False
    return True
