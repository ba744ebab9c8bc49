"""Keeps contents of files that are about to be overwritten: as a clone, a copy, or another hard link."""

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
    """Copies of files in one folder, by the rows of the files."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def take(self, parent: int, name: str, row: Row, deadline: float) -> bool:
        """Keep the content of the file with this row. Returns False when the file was changed meanwhile.

        Copies until `deadline`, a time of the monotonic clock, and makes hard links from then on: these are quick, and
        guard against all but a write into the same file.
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
        """Whether the file that `open` returns, or else the one in the workspace, with this stat, is as the row says.

        A link has another ctime, so only mode, size and modification time can be compared.
        """
        if os.path.exists(self._path(row)):
            return True
        return now[:3] == row[1:CTIME] if os.path.exists(self._link(row)) else now == row[1 : INODE + 1]

    def open(self, row: Row) -> BinaryIO | None:
        """Open a kept content. Returns None when there is none of this row."""
        if row[KIND] == "file":
            for path in (self._path(row), self._link(row)):
                with contextlib.suppress(FileNotFoundError):
                    return open(path, "rb", buffering=0)
        return None

    def keep(self, rows: Iterable[Row]) -> None:
        """Remove all copies but those of these rows."""
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
    """Clone or copy the open file. Returns False, and leaves no file, when the time is over or the disk is full."""
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
