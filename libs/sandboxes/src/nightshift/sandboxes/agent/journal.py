"""The journal of calls: which calls began, how each ended, and notes about them. Each record is one appended line.

A call with a record never runs again. So commands must not reach the journal, or the agent program must detect its
loss. In a local sandbox the journal is an unnamed file in the memory of process 1. At E2B it is a file in the home,
whose first line contains the sandbox's generation and the file's inode. By these the agent program detects when a
command removed, emptied or copied the journal; the sandbox then counts as lost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import signal
import struct
from collections.abc import Iterator
from typing import Any

from .wire import Refusal

try:
    from _blake2 import blake2b  # hashlib alone takes a tenth of the time that a request has
except ImportError:
    from hashlib import blake2b

#: Bytes that a journal on a disk reserves, so that a call can be recorded when the disk is full.
_ROOM = 128 * 1024
#: How many bytes are read at a time.
_CHUNK = 16 * 1024
#: The byte that is locked while a record is appended. Each call locks another byte, far behind the data.
_APPEND_LOCK = 0
# Locks of open file descriptions (Linux 3.15). A forked child shares its parent's lock; another open of the file does
# not.
_SETLK, _SETLKW = 37, 38


class Journal:
    """The journal in the file `path`, which is opened for each operation.

    It may be `/proc/self/fd/N` of an unnamed file. `room` is the number of bytes that `create` reserves.
    """

    def __init__(self, path: str, room: int = _ROOM) -> None:
        self._path = path
        self._room = room

    def create(self, generation: str) -> None:
        """Write the journal's first line, with this generation, unless the journal already has one.

        A generation is the text `<build id>/<number of the build's sandbox>/<sandbox id>`.
        """
        with self._open(make=True) as file:
            handle = file.fileno()
            _lock(handle, fcntl.F_WRLCK, _APPEND_LOCK)
            if _generation(handle) is None:
                head = {"generation": generation, "inode": os.fstat(handle).st_ino}
                os.ftruncate(handle, 0)
                os.pwrite(handle, (json.dumps(head) + "\n").encode("ascii").ljust(self._room, b"\0"), 0)

    def generation(self) -> str | None:
        """Return the generation in the first line, or None when the journal is missing, damaged or a copy."""
        try:
            with self._open() as file:
                return _generation(file.fileno())
        except OSError:
            return None

    def require(self, generation: str | None) -> None:
        """Raise Refusal of kind `lost` unless the journal has this generation in its first line. Does nothing for
        None.
        """
        if generation is not None and self.generation() != generation:
            raise Refusal("lost", "the record of the calls that ran in this sandbox is gone")

    def add(self, call_id: str, kind: str, value: Any) -> None:
        """Append a record. Raises OSError when the disk is full."""
        line = f"\n{call_id} {kind} {json.dumps(value)}\n".encode("ascii")
        with self._open() as file:
            _lock(file.fileno(), fcntl.F_WRLCK, _APPEND_LOCK)
            if os.pwrite(file.fileno(), line, _end(file.fileno())) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def find(self, call_id: str, kind: str) -> Any:
        """Return the value of the call's first complete record of this kind, or None when there is none."""
        prefix = f"\n{call_id} {kind} ".encode("ascii")
        with self._open() as file:
            at = _search(file.fileno(), prefix, 0)
            while at >= 0:
                with contextlib.suppress(ValueError):  # the process that wrote it was killed during the write
                    return json.loads(_line(file.fileno(), at + len(prefix)))
                at = _search(file.fileno(), prefix, at + 1)
        return None

    @contextlib.contextmanager
    def lock(self, call_id: str, *, wait: bool) -> Iterator[int | None]:
        """Take the lock of a call. Yields a file descriptor that holds it.

        The kernel releases the lock when all processes with this descriptor have closed it or died. When another
        process has the lock, the argument `wait` decides: True waits for the lock, False yields None.
        """
        with self._open() as file:
            held: int | None = file.fileno()
            try:
                _lock(file.fileno(), fcntl.F_WRLCK, _byte(call_id), None if wait else 0)
            except BlockingIOError:
                held = None
            yield held

    def wait_unlocked(self, call_id: str, wait_s: float) -> bool:
        """Wait until no process holds the call's lock. Returns False when a process still holds it after `wait_s`
        seconds.
        """
        with self._open() as file:
            try:
                _lock(file.fileno(), fcntl.F_RDLCK, _byte(call_id), wait_s)
            except (BlockingIOError, TimeoutError):
                return False
        return True

    def _open(self, make: bool = False) -> io.FileIO:
        handle = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
        return io.FileIO(handle, "r+")


def _generation(handle: int) -> str | None:
    try:
        head = json.loads(os.pread(handle, 4096, 0).split(b"\n")[0])
        return str(head["generation"]) if head["inode"] == os.fstat(handle).st_ino else None
    except (ValueError, KeyError, TypeError):
        return None


def _end(handle: int) -> int:
    """Return the offset of the first byte after the last record. Reserved zero bytes may follow."""
    end = os.fstat(handle).st_size
    while end > 0:
        start = max(0, end - _CHUNK)
        used = os.pread(handle, end - start, start).rstrip(b"\0")
        if used:
            return start + len(used)
        end = start
    return 0


def _search(handle: int, wanted: bytes, start: int) -> int:
    """Return the first offset, from `start` on, at which the bytes `wanted` begin, or -1. Reads the file in chunks."""
    while True:
        chunk = os.pread(handle, _CHUNK, start)
        at = chunk.find(wanted)
        if at >= 0:
            return start + at
        if len(chunk) < _CHUNK:
            return -1
        start += _CHUNK - len(wanted)


def _line(handle: int, start: int) -> bytes:
    line, chunk = b"", b"-"
    while chunk and b"\n" not in line:
        chunk = os.pread(handle, _CHUNK, start + len(line))
        line += chunk
    return line.split(b"\n")[0].rstrip(b"\0")


def _byte(call_id: str) -> int:
    return 1 + int.from_bytes(blake2b(call_id.encode("ascii"), digest_size=7).digest(), "big")


def _lock(handle: int, kind: int, byte: int, wait_s: float | None = None) -> None:
    """Lock the byte `byte` of the file. `kind` is F_WRLCK (exclusive) or F_RDLCK (shared). If `wait_s` is None, waits
    without a limit.

    Raises BlockingIOError when another process has locked the byte and `wait_s` is 0. Raises TimeoutError when the byte
    is still locked after `wait_s` seconds.
    """
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)
    if wait_s is None or wait_s <= 0:
        fcntl.fcntl(handle, _SETLKW if wait_s is None else _SETLK, request)
        return
    signal.signal(signal.SIGALRM, _expire)
    # The alarm repeats, because one that comes between two system calls would have no effect.
    signal.setitimer(signal.ITIMER_REAL, wait_s, 0.05)
    try:
        fcntl.fcntl(handle, _SETLKW, request)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _expire(*_: Any) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise TimeoutError
