"""The journal of calls: which calls began, how each ended, and notes about them. It only grows, by one line a record.

A call that has a record is never run again. So commands must not reach the journal, or its loss must be detected. In a
local sandbox it is a file without a name, in the memory of process 1. At E2B it is a file in the home. Its first line
names the sandbox's generation and the file's inode, so a journal that was removed, emptied or put back from a copy is
recognised, and the sandbox counts as lost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import signal
import struct
from collections.abc import Iterator
from typing import Any

from .wire import Refusal

#: Bytes that a journal on a disk reserves, so that a full disk does not keep a call from being recorded.
_ROOM = 128 * 1024
#: The byte that is locked while a record is added. Each call has a byte of its own, far beyond it.
_APPEND_LOCK = 0
# Locks of open file descriptions (Linux 3.15): a forked child shares its parent's, another open does not.
_SETLK, _SETLKW = 37, 38


class Journal:
    """Opens the file anew for each operation. `path` may be `/proc/self/fd/N` of a file without a name.

    `room` is the number of bytes that `create` reserves.
    """

    def __init__(self, path: str, room: int = _ROOM) -> None:
        self._path = path
        self._room = room

    def create(self, generation: str) -> None:
        """Write the first line unless there is one."""
        with self._appending(make=True) as handle:
            if self._generation(handle) is None:
                head = {"generation": generation, "inode": os.fstat(handle).st_ino}
                os.ftruncate(handle, 0)
                os.pwrite(handle, (json.dumps(head) + "\n").encode("ascii").ljust(self._room, b"\0"), 0)

    def generation(self) -> str | None:
        """The generation in the first line. Returns None when the journal is missing, cut, or a copy."""
        try:
            with self._open() as handle:
                return self._generation(handle)
        except OSError:
            return None

    def require(self, generation: str | None) -> None:
        """Raises Refusal of kind `lost` unless the journal is the one of this generation."""
        if generation is not None and self.generation() != generation:
            raise Refusal("lost", "the record of the calls that ran in this sandbox is gone")

    def add(self, call_id: str, kind: str, value: Any) -> None:
        """Add a record. Raises OSError when the disk is full."""
        line = f"\n{call_id} {kind} {json.dumps(value)}\n".encode("ascii")
        with self._appending() as handle:
            end = len(_content(handle))
            if os.pwrite(handle, line, end) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def find(self, call_id: str, kind: str) -> Any:
        """The value of the call's first whole record of this kind. Returns None when there is none."""
        prefix = f"\n{call_id} {kind} ".encode("ascii")
        with self._open() as handle:
            content = _content(handle)
        start = content.find(prefix)
        while start >= 0:
            end = content.find(b"\n", start + 1)
            with contextlib.suppress(ValueError):  # its writer was killed half-way
                return json.loads(content[start + len(prefix) : end if end >= 0 else None])
            start = content.find(prefix, start + 1)
        return None

    def lock(self, call_id: str, *, wait: bool) -> int | None:
        """Take the call's lock. Returns a file descriptor that holds it.

        The kernel frees the lock when the last process that holds the descriptor closes it or dies. Returns None when
        another process holds the lock and `wait` is false.
        """
        handle = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _lock(handle, fcntl.F_WRLCK, _byte(call_id), wait=wait)
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        return handle

    def wait_unlocked(self, call_id: str, wait_s: float) -> bool:
        """Wait until nobody holds the call's lock. Returns False when somebody still does after `wait_s` seconds."""
        with self._open() as handle:
            return _shared(handle, _byte(call_id), wait_s)

    def _generation(self, handle: int) -> str | None:
        try:
            head = json.loads(_content(handle).split(b"\n")[0])
            own = head["inode"] == os.fstat(handle).st_ino
            return str(head["generation"]) if own else None
        except (ValueError, KeyError, TypeError):
            return None

    @contextlib.contextmanager
    def _open(self, make: bool = False) -> Iterator[int]:
        handle = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
        try:
            yield handle
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _appending(self, make: bool = False) -> Iterator[int]:
        with self._open(make) as handle:
            _lock(handle, fcntl.F_WRLCK, _APPEND_LOCK, wait=True)
            yield handle


def _content(handle: int) -> bytes:
    """All records of the file, without the zero bytes that reserve room behind them."""
    parts: list[bytes] = []
    offset = 0
    while True:
        part = os.pread(handle, 1 << 20, offset)
        if not part:
            return b"".join(parts).rstrip(b"\0")
        parts.append(part)
        offset += len(part)


def _byte(call_id: str) -> int:
    return 1 + int.from_bytes(hashlib.sha256(call_id.encode("ascii")).digest()[:7], "big")


def _lock(handle: int, kind: int, byte: int, *, wait: bool) -> None:
    """Raises BlockingIOError when `wait` is false and another open of the file holds the byte."""
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)
    fcntl.fcntl(handle, _SETLKW if wait else _SETLK, request)


def _shared(handle: int, byte: int, wait_s: float) -> bool:
    """Take a shared lock. Returns False when the byte is still locked after `wait_s` seconds."""
    if wait_s <= 0:
        try:
            _lock(handle, fcntl.F_RDLCK, byte, wait=False)
        except BlockingIOError:
            return False
        return True

    class _Over(Exception):
        pass

    def over(*_: Any) -> None:
        raise _Over

    before = signal.signal(signal.SIGALRM, over)
    try:
        # Repeated: an alarm that falls between two system calls must not be the only one.
        signal.setitimer(signal.ITIMER_REAL, wait_s, 0.05)
        _lock(handle, fcntl.F_RDLCK, byte, wait=True)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except _Over:
        return False
    else:
        return True
    finally:
        with contextlib.suppress(_Over):
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
