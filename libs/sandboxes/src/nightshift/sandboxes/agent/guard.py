"""Copies large files in the background. A lease on each file makes the kernel hold up a program that opens it to write.

Here a lease is the kernel's file lease (see fcntl(2)). When a stage is held, the agent program takes the leases and
returns without waiting for the copies. A program that opens an uncopied file to write waits, and the guard copies that
file first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable
from typing import BinaryIO

from .command_supervisor import close_others

_FICLONE = 0x40049409
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: The most files that one guard holds open, two descriptors each.
_FILES = 200
#: Bytes that are copied before the guard looks again who waits.
_STEP = 4 * 1024 * 1024
#: Seconds that a program may wait to write into a file. Then the file is given up, and its snapshot says so.
_LONGEST_WAIT_S = 5.0


class Guard:
    """The files of one held stage that are copied in the background. Call `add` for each file, then `start` once."""

    def __init__(self) -> None:
        self._files: list[_Guarded] = []

    def add(self, file: BinaryIO, path: str, unchanged: Callable[[], bool]) -> bool:
        """Take a kernel lease on the open file, which `start` will copy to `path`. Returns False when that fails.

        It fails when a program has the file open to write, the file system has no leases, or too many files were
        added. It also fails when `unchanged` returns False after the lease was taken.
        """
        if len(self._files) >= _FILES:
            return False
        signal.signal(
            signal.SIGIO, signal.SIG_IGN
        )  # sent when somebody opens the file; the guard asks instead
        held = os.dup(file.fileno())
        with contextlib.suppress(OSError):
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            if unchanged():
                copy = new_copy(path)
                fcntl.flock(copy, fcntl.LOCK_EX)  # whoever reads the copy waits for this lock
                self._files.append(_Guarded(held, copy, path))
                return True
        os.close(held)
        return False

    def start(self) -> None:
        """Copy the added files in a process of their own, which ends after the last file. Returns at once."""
        if not self._files:
            return
        child = os.fork()
        if child == 0:
            try:
                if os.fork() == 0:
                    self._run()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        for one in self._files:
            one.close()

    def _run(self) -> None:
        os.setsid()
        for number in range(3):  # the client waits until nobody has its pipes
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        close_others(*(handle for one in self._files for handle in (one.file, one.copy)))
        left = self._files
        while left:
            first = next((one for one in left if one.waited_for()), left[0])
            if first.step():
                first.close()
                left.remove(first)


class _Guarded:
    """A file with a kernel lease (see fcntl(2)), and the copy of it that is being written."""

    def __init__(self, file: int, copy: int, path: str) -> None:
        self.file = file
        self.copy = copy
        self._path = path
        self._done = 0
        self._waited_since: float | None = None

    def waited_for(self) -> bool:
        """Return whether a program waits to open the file for writing."""
        if self._waited_since is None and fcntl.fcntl(self.file, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            self._waited_since = time.monotonic()
        return self._waited_since is not None

    def step(self) -> bool:
        """Copy the next part of the file. Returns True when no part is left.

        Also returns True after giving up the copy, because the disk is full or a program has waited too long.
        """
        try:
            if self._done == 0 and clone(self.file, self.copy):
                count = 0
            else:
                count = os.sendfile(self.copy, self.file, self._done, _STEP)
            self._done += count
            if count == 0:
                os.rename(unfinished(self._path), self._path)
                return True
        except OSError:  # the disk is full
            self._give_up()
            return True
        if self._waited_since is not None and time.monotonic() - self._waited_since > _LONGEST_WAIT_S:
            self._give_up()
            return True
        return False

    def _give_up(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(unfinished(self._path))

    def close(self) -> None:
        """Close both files. The kernel lease ends, unless another process still has the file open."""
        os.close(self.file)
        os.close(self.copy)


def unfinished(path: str) -> str:
    """Return the path that the copy for `path` has until it is complete."""
    return f"{path}.new"


def new_copy(path: str) -> int:
    """Create the unfinished copy for `path`, in place of one that was never completed. Returns its descriptor."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(unfinished(path))
    return os.open(unfinished(path), _NEW, 0o600)


def is_copied_now(path: str, *, wait: bool = False) -> bool:
    """Return whether a process is copying a file to `path`. If `wait`, waits for the end of the copy and returns
    False.
    """
    try:
        handle = os.open(unfinished(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def clone(file: int, copy: int) -> bool:
    """Make the descriptor `copy` share the blocks of `file` (FICLONE). Returns False when the file system cannot do
    that.
    """
    try:
        fcntl.ioctl(copy, _FICLONE, file)
    except OSError:
        return False
    return True
