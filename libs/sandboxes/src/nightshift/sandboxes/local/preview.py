"""A preview: a listener on the host's loopback. It forwards each connection through the agent to a port inside.

It runs as a process of its own (`python -m nightshift.sandboxes.local.preview`), so it outlives the gateway and ends
with its sandbox. The sandbox never holds a socket of the host's network.
"""

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from nightshift.eventlog.errors import NightshiftError
from nightshift.sandboxes.agent.wire import json_frame
from nightshift.sandboxes.errors import SandboxUnavailable
from nightshift.sandboxes.local import orphan
from nightshift.sandboxes.local.state import SandboxDirectory, names, write_json

_START_S = 15.0
_LOOK_S = 1.0


async def open_preview(directory: SandboxDirectory, host: str, port: int) -> str:
    """Start the preview unless it runs. Returns its address.

    The address stays the same for a port unless another process took the host's port meanwhile.
    """
    before = known = _read(directory, port)
    if known is None or not names(known["pid"], directory.id):
        directory.ports.mkdir(exist_ok=True)
        wanted = known["listen"] if known else 0
        command = [sys.executable, "-m", __name__, str(directory.path), str(port), host, str(wanted)]
        await asyncio.to_thread(orphan.start, command)
        until = asyncio.get_running_loop().time() + _START_S
        while (known := _read(directory, port)) == before or known is None:
            if asyncio.get_running_loop().time() > until:
                raise SandboxUnavailable(f"the preview of port {port} did not start")
            await asyncio.sleep(0.01)
    return f"http://{host}:{known['listen']}/"


def running(directory: SandboxDirectory) -> list[int]:
    """The pids of a sandbox's previews."""
    found = (_read(directory, int(path.stem)) for path in directory.ports.glob("*.json"))
    return [known["pid"] for known in found if known is not None and names(known["pid"], directory.id)]


def _read(directory: SandboxDirectory, port: int) -> dict[str, int] | None:
    try:
        value = json.loads((directory.ports / f"{port}.json").read_text(encoding="utf-8"))
        return {"pid": int(value["pid"]), "listen": int(value["listen"])}
    except (OSError, ValueError, KeyError):
        return None


async def serve(directory: SandboxDirectory, port: int, *, host: str, wanted: int) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await directory.dial()
            inner_writer.write(json_frame({"op": "dial", "port": port}))
            if await inner_reader.read(1):
                await asyncio.gather(_pipe(reader, inner_writer), _pipe(inner_reader, writer))
            inner_writer.close()
        except (NightshiftError, OSError):
            pass  # the visitor sees a closed connection
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(accept, host, wanted)
    except OSError:
        server = await asyncio.start_server(accept, host, 0)
    listen = server.sockets[0].getsockname()[1]
    write_json(directory.ports / f"{port}.json", {"pid": os.getpid(), "listen": listen})
    async with server:
        while directory.pids():  # noqa: ASYNC110 - a process that is no child of ours sends no event
            await asyncio.sleep(_LOOK_S)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


if __name__ == "__main__":
    directory, port_inside, listen_host, listen_port = sys.argv[1:]
    asyncio.run(
        serve(SandboxDirectory(Path(directory)), int(port_inside), host=listen_host, wanted=int(listen_port))
    )
