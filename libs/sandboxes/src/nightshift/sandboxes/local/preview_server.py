"""The process behind the previews of one sandbox. It uses only the standard library, so that it stays small.

Arguments: DIRECTORY HOST PID NAMESPACE READY-FD. It listens on `previews.sock` in the sandbox's directory for lines
`{"port": n}`. It answers `{"listen": m}`, where m is the port on the host that forwards to the sandbox's port n, or
`{"error": text}`.
"""

import asyncio
import json
import os
import struct
import sys
from contextlib import suppress

_MOST_PORTS = 16


class Previews:
    def __init__(self, directory: str, host: str) -> None:
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        self._host = host
        self._servers: dict[int, asyncio.Server] = {}

    def path(self, name: str) -> str:
        """Return a short path of a file in the sandbox's directory, because the path of a socket may have at most 107
        bytes.
        """
        return f"/proc/self/fd/{self._directory}/{name}"

    def record(self) -> None:
        """Write the pid and the start time of this process to `previews.json`. The sandbox gateway recognizes the
        process by both.
        """
        with open("/proc/self/stat", encoding="latin-1") as file:
            started = int(file.read().rpartition(")")[2].split()[19])
        with open(self.path("previews.json"), "w", encoding="utf-8") as record:
            json.dump({"pid": os.getpid(), "started": started}, record)

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of the sandbox gateway: open a port."""
        with suppress(OSError, ValueError, KeyError):
            port = int(json.loads(await reader.readline())["port"])
            writer.write(json.dumps(await self._open(port)).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _open(self, port: int) -> dict[str, object]:
        if port not in self._servers:
            if len(self._servers) >= _MOST_PORTS:
                return {"error": f"{_MOST_PORTS} ports are open already; use one of them"}

            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._forward(port, reader, writer)

            self._servers[port] = await asyncio.start_server(accept, self._host, 0)
        return {"listen": self._servers[port].sockets[0].getsockname()[1]}

    async def _forward(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # on an error the visitor sees a closed connection
            os.utime(self.path("previews.json"))  # the time of the last visit
            inner_reader, inner_writer = await asyncio.open_unix_connection(self.path("agent.sock"))
            request = json.dumps({"op": "dial", "port": port}).encode()
            inner_writer.write(struct.pack(">I", len(request)) + request)
            if await inner_reader.read(1):
                await asyncio.gather(_pipe(reader, inner_writer), _pipe(inner_reader, writer))
            inner_writer.close()
        writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def main(directory: str, host: str, pid: int, namespace: int, ready: int) -> None:
    """Serve previews until process 1 of the sandbox, `pid`, ends. Writes one byte to the descriptor `ready` once it
    listens.

    Returns at once when `pid` is now another process, which has another pid namespace than `namespace`.
    """
    process = os.pidfd_open(pid)
    if os.stat(f"/proc/{pid}/ns/pid").st_ino != namespace:
        return
    previews = Previews(directory, host)
    with suppress(FileNotFoundError):
        os.unlink(previews.path("previews.sock"))
    await asyncio.start_unix_server(previews.control, previews.path("previews.sock"))
    previews.record()
    os.write(ready, b"1")
    os.close(ready)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(process, ended.set)
    await ended.wait()


if __name__ == "__main__":
    where, address, *numbers = sys.argv[1:]
    asyncio.run(main(where, address, *map(int, numbers)))
