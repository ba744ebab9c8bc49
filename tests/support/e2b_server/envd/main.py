"""The process inside a sandbox of the E2B server: it does what E2B's envd does, as process 1.

It serves HTTP on a Unix socket that only the control plane reaches. A connection begins with a line: `HTTP` for an
exchange, or `PORT <number>` for a raw connection to a port inside the sandbox, as the provider's proxy makes it.
The statuses, codes and messages are those of envd 0.6, which the conformance test compares when it is at hand.
"""

import asyncio
import base64
import json
import os
import pwd
import socket
import sys
from contextlib import suppress

from . import filesystem, processes
from .defaults import Defaults
from .http import Exchange, serve
from .rpc_error import STATUS, RpcError


class Envd:
    """Answers every call of one sandbox."""

    def __init__(self) -> None:
        self.defaults = Defaults()
        self.processes = processes.Processes(self.defaults)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of the control plane."""
        word, _, argument = (await reader.readline()).decode().strip().partition(" ")
        if word == "HTTP":
            await serve(reader, writer, self.answer)
        elif word == "PORT":
            await _join(reader, writer, int(argument))
        else:
            writer.close()

    async def answer(self, ex: Exchange) -> None:
        """Answer one request."""
        if ex.path == "/init":
            asked = json.loads(ex.body)
            self.defaults.token, self.defaults.env = asked.get("accessToken", ""), asked.get("envVars", {})
            await ex.send(204)
        elif ex.path == "/health":
            await ex.send(204)
        elif ex.path == "/files":
            await filesystem.files(ex, self.defaults.token)
        elif self.defaults.token and ex.headers.get("x-access-token") != self.defaults.token:
            await ex.problem(401, "unauthorized access, please provide a valid access token")
        else:
            await self._call(ex)

    async def _call(self, ex: Exchange) -> None:
        """Answer a Connect call. A stream is answered with 200, whatever its last message then says."""
        streams = ex.headers.get("content-type", "").startswith("application/connect+json")
        if streams:
            await ex.head(200, {"Content-Type": "application/connect+json"})
        try:
            asked = json.loads(ex.body[5:] if streams else ex.body or b"{}")
            user = user_of(ex)
            if streams:
                await self.processes.stream(ex, asked, user)
                await ex.frame({}, flag=2)
                await ex.end()
            elif ex.path.startswith("/process."):
                await ex.json(200, await self.processes.call(ex.path.rsplit("/", 1)[1], asked))
            else:
                await ex.json(200, filesystem.call(ex.path.rsplit("/", 1)[1], asked, user))
        except RpcError as error:
            told = {"code": error.code, "message": str(error)}
            if streams:
                await ex.frame({"error": told}, flag=2)
                await ex.end()
            else:
                await ex.json(STATUS[error.code], told)


def user_of(ex: Exchange) -> pwd.struct_passwd:
    """Return the user whom the request names by basic authentication. The server knows only `user`."""
    given = ex.headers.get("authorization", "")
    name = "user"
    if given.startswith("Basic "):
        name = base64.b64decode(given.removeprefix("Basic ")).decode().partition(":")[0] or "user"
    return known_user(name)


def known_user(name: str) -> pwd.struct_passwd:
    """Raises RpcError for an unknown user, and for root, whom envd has and this server has not."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise RpcError("unauthenticated", f"invalid username: '{name}'") from None
    if found.pw_uid != os.getuid():
        raise RpcError("unimplemented", f"this server runs nothing as {name}")
    return found


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Connect to a port inside. Answers `open` or `closed` as the first line, then passes bytes both ways."""
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.write(b"closed\n")
        writer.close()
        return
    writer.write(b"open\n")
    await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


async def main(listener: int) -> None:
    """Serve on the inherited Unix socket until the sandbox is ended."""
    envd = Envd()
    server = await asyncio.start_unix_server(envd.connection, sock=socket.socket(fileno=listener))
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
