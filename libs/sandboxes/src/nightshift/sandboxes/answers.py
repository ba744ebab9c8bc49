"""Reads the answers of the agent inside a sandbox. Does not trust them: bounds frames and checks shapes."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Protocol

from nightshift.sandboxes.agent.wire import LENGTH
from nightshift.sandboxes.errors import AnswerCut, SandboxUnavailable
from nightshift.sandboxes.port import Entry

#: The most entries of a workspace that are listed.
MAX_ENTRIES: Final = 200_000
_MAX_FRAME: Final = 16 * 1024**2
_ENTRY: Final = ("path", "kind", "mode", "size", "mtime_ns", "digest", "target", "link", "problem")


class ByteSource(Protocol):
    async def readexactly(self, n: int, /) -> bytes: ...


async def read_frame(source: ByteSource) -> bytes:
    """Read one frame. Raises AnswerCut and SandboxUnavailable."""
    try:
        (size,) = LENGTH.unpack(await source.readexactly(LENGTH.size))
        if size > _MAX_FRAME:
            raise SandboxUnavailable("the sandbox's agent answers nonsense")
        return await source.readexactly(size) if size else b""
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise AnswerCut("the sandbox's agent broke off its answer") from error


async def read_header(source: ByteSource) -> dict[str, Any]:
    """Read a frame that holds a JSON object."""
    try:
        return dict(json.loads(await read_frame(source)))
    except (ValueError, TypeError) as error:
        raise SandboxUnavailable("the sandbox's agent answers nonsense") from error


async def chunks(source: ByteSource) -> AsyncIterator[bytes]:
    """Yields the frames up to an empty one."""
    while chunk := await read_frame(source):
        yield chunk


def entry_of(value: Mapping[str, Any]) -> Entry:
    """Return the entry of a row of a listing."""
    return Entry(**{name: value[name] for name in _ENTRY if name in value})
