"""The encoding of requests and answers: a JSON header, then data chunks, each after its length. A length of 0 ends
them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

#: What an operation says that needs room on a full disk.
FULL = "the disk of the sandbox is full, or all its files are used: delete some first, which works on a full disk"
CHUNK = 256 * 1024
LENGTH = struct.Struct(">I")
_CALL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)*")


class Reader(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


class Writer(Protocol):
    def write(self, data: bytes, /) -> Any: ...

    def flush(self) -> None: ...


class Refusal(Exception):
    """An error of an operation, which the agent program sends as the answer to the request.

    `kind` is one of the port's `FileProblem` values, `lost` or `bad_request`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def frame(data: bytes) -> bytes:
    return LENGTH.pack(len(data)) + data


def json_frame(value: Any) -> bytes:
    return frame(json.dumps(value, separators=(",", ":")).encode("ascii"))


END = frame(b"")


def _read_exactly(stream: Reader, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.read(size - len(data))
        if not piece:
            raise EOFError("the stream was cut")
        data = data + piece if data else piece
    return data


def _read_frame(stream: Reader) -> bytes:
    (size,) = LENGTH.unpack(_read_exactly(stream, LENGTH.size))
    return _read_exactly(stream, size)


def read_json(stream: Reader) -> dict[str, Any]:
    value = json.loads(_read_frame(stream))
    if not isinstance(value, dict):
        raise ValueError("a header is an object")  # noqa: TRY004 - it is malformed data
    return value


def read_chunks(stream: Reader) -> Iterator[bytes]:
    """Yield the chunks of a body up to its end."""
    return iter(lambda: _read_frame(stream), b"")


def file_chunks(file: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yield up to `limit` bytes of an open file, in chunks."""
    while limit > 0:
        chunk = file.read(min(CHUNK, limit))
        if not chunk:
            return
        limit -= len(chunk)
        yield chunk


def make_workspace(home: str) -> None:
    """Create the workspace directory again if a command has removed it. An error is ignored."""
    path = os.path.join(home, "workspace")
    if not os.path.isdir(path):
        with contextlib.suppress(OSError):
            os.makedirs(path)


def checked_call_id(call_id: str) -> str:
    """Return the call id. Raises Refusal for a text that has not the form of a call id."""
    if not isinstance(call_id, str) or not _CALL_ID.fullmatch(call_id) or len(call_id) > 220:
        raise Refusal("bad_request", "not a call id")
    return call_id
