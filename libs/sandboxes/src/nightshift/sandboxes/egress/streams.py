"""Byte streams over plain sockets and over TLS, and the copy between two sockets."""

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Protocol, Self

#: Seconds without a byte after which a connection is closed.
IDLE_S = 600.0
CHUNK = 128 * 1024
#: Bytes of one read of a TLS connection. Its plaintext arrives in records of 16 KiB, and each read costs a turn of the
#: event loop.
_TLS_CHUNK = 512 * 1024


class ByteStream(Protocol):
    """A connection that carries bytes. `sent` and `received` count the bytes since its start."""

    sent: int
    received: int

    async def recv(self) -> bytes:
        """Return the next bytes, or b"" at the end. Raises OSError when the connection breaks, or is silent for IDLE_S
        seconds.
        """
        ...

    async def send(self, data: bytes) -> None: ...

    def finish(self) -> None:
        """Tell the peer that nothing more will be sent."""
        ...

    def close(self) -> None: ...


class SocketStream:
    """A ByteStream over a connected, non-blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.sent = self.received = 0
        self._loop = asyncio.get_running_loop()

    async def recv(self) -> bytes:
        async with asyncio.timeout(IDLE_S):
            data = await self._loop.sock_recv(self.socket, CHUNK)
        self.received += len(data)
        return data

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(IDLE_S):
            await self._loop.sock_sendall(self.socket, data)
        self.sent += len(data)

    def finish(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()


class TlsStream:
    """A ByteStream over TLS. This process is the server or the client of the handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.sent = self.received = 0

    @classmethod
    async def accept(cls, sock: socket.socket, context: ssl.SSLContext) -> Self:
        """Do the server's part of the handshake. Takes over the descriptor of `sock`. Raises OSError when it fails."""
        reader = asyncio.StreamReader(limit=_TLS_CHUNK)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, socket.socket(fileno=sock.detach()), ssl=context, ssl_handshake_timeout=10
        )
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    @classmethod
    async def connect(cls, sock: socket.socket, context: ssl.SSLContext, host: str) -> Self:
        """Do the client's part of the handshake, and check the server's certificate for `host`. Raises OSError when it
        fails.

        Takes over the descriptor of `sock`.
        """
        own = socket.socket(fileno=sock.detach())
        reader, writer = await asyncio.open_connection(
            sock=own, ssl=context, server_hostname=host, ssl_handshake_timeout=10, limit=_TLS_CHUNK
        )
        return cls(reader, writer)

    async def recv(self) -> bytes:
        async with asyncio.timeout(IDLE_S):
            data = await self._reader.read(_TLS_CHUNK)
        self.received += len(data)
        return data

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(IDLE_S):
            await self._writer.drain()
        self.sent += len(data)

    def finish(self) -> None:
        """Do nothing, because not all clients understand a TLS connection that is closed in one direction."""

    def close(self) -> None:
        self._writer.close()


async def copy_both(inner: SocketStream, outer: SocketStream) -> None:
    """Copy bytes both ways until both sides have ended.

    Raises OSError when one side breaks, or when no byte arrives for IDLE_S seconds.
    """
    tasks = {asyncio.create_task(_copy(inner, outer)), asyncio.create_task(_copy(outer, inner))}
    moved = -1
    try:
        while tasks:
            done, tasks = await asyncio.wait(tasks, timeout=IDLE_S, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if not done and moved == inner.sent + outer.sent:
                raise TimeoutError("nothing moved")
            moved = inner.sent + outer.sent
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(source: SocketStream, sink: SocketStream) -> None:
    loop = asyncio.get_running_loop()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    while size := await loop.sock_recv_into(source.socket, buffer):
        source.received += size
        await loop.sock_sendall(sink.socket, view[:size])
        sink.sent += size
    sink.finish()
