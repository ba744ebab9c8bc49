"""HTTP/1.1 exchanges on h11, for the control plane and for the process inside each sandbox."""

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h11

_READ = 65536


class Exchange:
    """One request and its answer. `body` is the whole body of the request."""

    def __init__(
        self, connection: h11.Connection, writer: asyncio.StreamWriter, request: h11.Request, body: bytes
    ) -> None:
        self.target = request.target.decode()
        url = urlsplit(self.target)
        self.method, self.path, self.body = request.method.decode(), url.path, body
        self.query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.headers = {name.decode().lower(): value.decode() for name, value in request.headers}
        self._connection, self._writer = connection, writer

    async def json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""
        await self.send(
            status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    async def problem(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        """Answer with an error as the control plane and the file API write it: a code and a message."""
        await self.json(status, {"code": status, "message": message}, headers)

    async def send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Answer with a whole body."""
        length = {} if status == 204 else {"Content-Length": str(len(body))}
        await self.head(status, {**(headers or {}), **length})
        if body:
            await self.write(h11.Data(data=body))
        await self.end()

    async def head(self, status: int, headers: dict[str, str]) -> None:
        """Begin an answer whose body follows in parts."""
        await self.write(h11.Response(status_code=status, headers=list(headers.items())))

    async def frame(self, value: Any, *, flag: int = 0) -> None:
        """Write one message of a Connect stream. `flag` 2 marks the last."""
        body = json.dumps(value).encode()
        await self.write(h11.Data(data=struct.pack(">BI", flag, len(body)) + body))

    async def end(self) -> None:
        """End the answer."""
        await self.write(h11.EndOfMessage())

    async def write(self, event: h11.Event) -> None:
        """Write one part of the answer."""
        self._writer.write(self._connection.send(event) or b"")
        await self._writer.drain()


async def serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    answer: Callable[[Exchange], Awaitable[None]],
) -> None:
    """Answer the requests of one connection, one after the other, until the client closes it."""
    connection = h11.Connection(h11.SERVER)
    with suppress(ConnectionError, h11.ProtocolError, asyncio.CancelledError):
        while True:
            request, body = await _read(connection, reader)
            if request is None:
                break
            await answer(Exchange(connection, writer, request, body))
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                break
            connection.start_next_cycle()
    writer.close()


async def forward(ex: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a request on over another connection, and pass the answer back part by part as it comes."""
    connection = h11.Connection(h11.CLIENT)
    dropped = ("host", "content-length", "transfer-encoding", "connection", "expect")
    headers = [(name, value) for name, value in ex.headers.items() if name not in dropped]
    headers += [("Host", "envd"), ("Content-Length", str(len(ex.body)))]
    for event in (
        h11.Request(method=ex.method, target=ex.target, headers=headers),
        h11.Data(data=ex.body),
        h11.EndOfMessage(),
    ):
        writer.write(connection.send(event) or b"")
    await writer.drain()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ))
        elif isinstance(event, h11.Response):
            kept = [(name, value) for name, value in event.headers if name.lower() != b"connection"]
            await ex.write(h11.Response(status_code=event.status_code, headers=kept))
        elif isinstance(event, h11.Data):
            await ex.write(h11.Data(data=bytes(event.data)))
        elif isinstance(event, h11.EndOfMessage):
            await ex.end()
            return
        else:
            raise ConnectionResetError("the sandbox ended in the middle of an answer")


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[h11.Request | None, bytes]:
    request, body = None, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return request, bytes(body)
        else:
            return None, b""
