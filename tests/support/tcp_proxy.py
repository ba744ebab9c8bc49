"""A TCP proxy that can cut a connection after a request arrived and before its answer leaves, or fall silent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class TcpProxy:
    """`cut_answers`: how many answers are still to be lost. The server has done the work, the client never hears.

    `let_pass`: how many requests still reach the server; none: all. Then the server hears nothing any more, not even
    that a client hung up: as of a client whose machine is paused.
    """

    host: str
    port: int
    own_port: int = 0
    cut_answers: int = 0
    let_pass: int | None = None
    lost: int = 0
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
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
            self.tasks.discard(task)

    async def _answer(
        self, server: asyncio.StreamReader, writer: asyncio.StreamWriter, upwards: "asyncio.Task[None]"
    ) -> None:
        try:
            while data := await server.read(65536):
                if self.cut_answers > 0:
                    self.cut_answers -= 1
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()
        finally:
            upwards.cancel()
            await asyncio.wait([upwards])

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
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.own_port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await asyncio.sleep(0)  # who was accepted at this moment has a task after it
        tasks = list(proxy.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
