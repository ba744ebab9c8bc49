"""The encoding of requests and answers: a JSON header, then chunks, each after its length. A length of 0 ends them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, Protocol

CHUNK = 256 * 1024
_LENGTH = struct.Struct(">I")


class Reader(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


class Writer(Protocol):
    def write(self, data: bytes, /) -> Any: ...

    def flush(self) -> None: ...


class Refusal(Exception):
    """An error answer. `kind` is a file problem of the port, `lost` or `bad_request`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_exactly(stream: Reader, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.read(size - len(data))
        if not piece:
            raise EOFError("the stream was cut")
        data = data + piece if data else piece
    return data


def read_frame(stream: Reader) -> bytes:
    (size,) = _LENGTH.unpack(read_exactly(stream, _LENGTH.size))
    return read_exactly(stream, size)


def read_json(stream: Reader) -> dict[str, Any]:
    value = json.loads(read_frame(stream))
    if not isinstance(value, dict):
        raise ValueError("a header is an object")  # noqa: TRY004 - it is malformed data
    return value


def write_frame(stream: Writer, data: bytes) -> None:
    stream.write(_LENGTH.pack(len(data)) + data)


def write_json(stream: Writer, value: Any) -> None:
    write_frame(stream, json.dumps(value, separators=(",", ":")).encode("ascii"))


def write_end(stream: Writer) -> None:
    stream.write(_LENGTH.pack(0))


def read_chunks(stream: Reader) -> Iterator[bytes]:
    while True:
        chunk = read_frame(stream)
        if not chunk:
            return
        yield chunk
