"""The channel to a local sandbox: one connection to the agent's unix socket for each request."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from nightshift.sandboxes.client import ByteSource, json_frame
from nightshift.sandboxes.errors import SandboxGone, SandboxUnavailable
from nightshift.sandboxes.local.state import SandboxDirectory


async def dial(directory: SandboxDirectory) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the agent. Raises SandboxGone when nothing listens any more."""
    try:
        handle = os.open(directory.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SandboxGone(f"no sandbox {directory.id} on this machine") from None
    try:
        # Through the handle, because the path of a socket may have 107 bytes only.
        return await asyncio.open_unix_connection(f"/proc/self/fd/{handle}/agent.sock")
    except (ConnectionRefusedError, FileNotFoundError):
        raise SandboxGone(f"sandbox {directory.id} has ended") from None
    except OSError as error:
        raise SandboxUnavailable(f"sandbox {directory.id}: {error}") from error
    finally:
        os.close(handle)


class LocalChannel:
    def __init__(self, directory: SandboxDirectory) -> None:
        self._directory = directory

    @asynccontextmanager
    async def exchange(
        self, request: Mapping[str, Any], body: AsyncIterator[bytes] | None
    ) -> AsyncIterator[ByteSource]:
        reader, writer = await dial(self._directory)
        try:
            try:
                writer.write(json_frame(request))
                if body is not None:
                    async for part in body:
                        writer.write(part)
                        await writer.drain()
                await writer.drain()
            except ConnectionError:
                pass  # the agent refused before it had read all; its answer says why
            yield reader
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            if not self._directory.pids() and reader.at_eof():
                raise SandboxGone(f"sandbox {self._directory.id} has ended")
