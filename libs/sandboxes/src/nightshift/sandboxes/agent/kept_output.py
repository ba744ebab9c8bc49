"""A limited part of a command's output stream: its beginning, and a shorter part of its end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .confined_paths import READ
from .identity import as_agent
from .looks import SHOWN
from .wire import file_chunks

#: Bytes of a stream that stay in memory. A longer stream goes to a file. The gateway shows no more than this without a
#: cut.
IN_MEMORY = 24 * 1024
_TAIL = 256 * 1024


class KeptOutput:
    """Keeps the first `limit` bytes of a stream, and a part of its end.

    Output that is too long for memory goes to the file `path`, in a directory to which only the agent program can
    write.
    """

    def __init__(self, path: str, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._memory = b""
        self._tail = b""
        self._file: int | None = None
        self._in_file = False
        self._total = 0
        self._head = self._tail_size = (
            0  # bytes kept of the beginning and, once the stream has ended, of its end
        )
        self.size = 0

    def take(self, data: bytes) -> None:
        """Add bytes of the stream. Bytes beyond the limit are kept only while they belong to the end of the stream."""
        self._total += len(data)
        room = self._limit - self.size
        if room > 0:
            self._keep(data[:room])
            data = data[room:]
            self._head = self.size
        if data:
            self._tail = (self._tail + data)[-_TAIL:]

    def _keep(self, data: bytes) -> None:
        if not self._in_file and len(self._memory) + len(data) <= IN_MEMORY:
            self._memory += data
            self.size += len(data)
        else:
            self.spill()
            self._append(data)

    def spill(self) -> None:
        """Move the bytes in memory to the file."""
        if self._in_file:
            return
        self._in_file = True
        with contextlib.suppress(OSError), as_agent():
            os.makedirs(os.path.dirname(self._path), 0o755, exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        memory, self._memory, self.size = self._memory, b"", 0
        self._append(memory)

    def _append(self, data: bytes) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk must not stop the draining
                self.size += os.write(self._file, data)

    def finish(self) -> None:
        """Add the end of a stream that exceeded the limit, after a note about the dropped bytes."""
        if self._tail:
            dropped = self._total - self.size - len(self._tail)
            note = f"\n[... {dropped} bytes were not kept ...]\n" if dropped > 0 else ""
            self._keep(note.encode() + self._tail)
            self._tail_size = len(self._tail)
        self._tail, self._limit = b"", 0
        self.close()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def remove(self) -> None:
        """Remove the file, to free disk space."""
        with contextlib.suppress(OSError), as_agent():
            os.unlink(self._path)

    @property
    def in_memory(self) -> bytes | None:
        """The kept output, or None when it was moved to the file."""
        return None if self._in_file else self._memory

    @property
    def total(self) -> int:
        """The number of bytes that the stream has had."""
        return self._total

    def since(self, start: int) -> bytes:
        """Return the stream without its first `start` bytes.

        If that is more than SHOWN bytes, returns only its end, after a note about the omitted bytes.
        """
        begin = max(start, self._head - SHOWN)
        head = b"".join(self.read(begin, self._head - begin)) if begin < self._head else b""
        tail = self._tail or b"".join(self.read(self.size - self._tail_size, self._tail_size))
        new = self._total - start
        shown = (head + tail[-new:])[-SHOWN:] if new > 0 else b""
        note = f"[... {new - len(shown)} bytes before this are not shown ...]\n" if new > len(shown) else ""
        return note.encode() + shown

    def read(self, offset: int, limit: int) -> Iterator[bytes]:
        """Yield up to `limit` bytes of the kept output, from byte `offset` on. Yields nothing when the file is gone."""
        if not self._in_file:
            yield self._memory[offset : offset + limit]
            return
        try:
            handle = os.open(self._path, READ)
        except OSError:
            return
        with os.fdopen(handle, "rb") as file:
            file.seek(offset)
            yield from file_chunks(file, limit)
