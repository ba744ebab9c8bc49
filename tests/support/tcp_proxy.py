"""A TCP proxy that can cut a connection after a request arrived and before its answer leaves, fall silent, or crash."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class TcpProxy:
    """`cut_answers`: how many answers are still to be lost. The server has done the work, the client never hears.

    `let_pass`: how many requests still reach the server; none: all. Then the server hears nothing any more, not even
    that a client hung up: as of a client whose machine is paused.

    `crash_after`: how many answers still leave; none: all. Then every connection is cut and none is served any more: as
    of a server that crashed.
    """

    host: str
    port: int
    own_port: int = 0
    cut_answers: int = 0
    let_pass: int | None = None
    crash_after: int | None = None
    lost: int = 0
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def accept(self, listener: socket.socket) -> None:
        """Take one connection that waits."""
        with contextlib.suppress(BlockingIOError, ConnectionError):  # its client is gone already
            connection, _ = listener.accept()
            if self.crash_after == 0:
                connection.close()
                return
            connection.setblocking(False)
            task = asyncio.create_task(self._serve(connection))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            task.add_done_callback(lambda _: connection.close())

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            if (
                self.let_pass == 0
            ):  # who is paused asks for no connection, nor for a statement to be cancelled
                return
            async with _connected(self.host, self.port) as (server_reader, server_writer):
                await self._answer(
                    server_reader, writer, asyncio.create_task(self._pump(reader, server_writer))
                )
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(
        self, server: asyncio.StreamReader, writer: asyncio.StreamWriter, upwards: "asyncio.Task[None]"
    ) -> None:
        try:
            while data := await server.read(65536):
                if self.crash_after == 0:
                    self._crash()
                    return
                if self.crash_after is not None:
                    self.crash_after -= 1
                if self.cut_answers > 0:
                    self.cut_answers -= 1
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()
        finally:
            upwards.cancel()
            await asyncio.wait([upwards])

    def _crash(self) -> None:
        for task in self.tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.let_pass == 0:
                    await asyncio.Event().wait()
                if self.let_pass is not None:
                    self.let_pass -= 1
                writer.write(data)
                await writer.drain()
            if self.let_pass == 0:
                await asyncio.Event().wait()
            writer.close()


@contextlib.asynccontextmanager
async def _connected(
    host: str, port: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def tcp_proxy(host: str, port: int) -> AsyncIterator[TcpProxy]:
    """A proxy on a free port of loopback before `host:port`."""
    proxy = TcpProxy(host, port)
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        proxy.own_port = listener.getsockname()[1]
        # asyncio's own server leaves a connection open that comes while it closes.
        loop.add_reader(listener, proxy.accept, listener)
        try:
            yield proxy
        finally:
            loop.remove_reader(listener)
            tasks = list(proxy.tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
