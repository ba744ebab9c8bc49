"""Sources of bytes other than a socket, from which a client reads the answers of the agent program in a sandbox."""

import asyncio
from collections.abc import AsyncIterator


def in_memory(data: bytes) -> asyncio.StreamReader:
    """Return a source that yields bytes from memory."""
    source = asyncio.StreamReader()
    source.feed_data(data)
    source.feed_eof()
    return source


class ChunkReader:
    """A ByteSource over an iterator of chunks. It joins and splits chunks, to return exactly as many bytes as asked
    for.
    """

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def readexactly(self, n: int, /) -> bytes:
        while len(self._buffer) < n:
            try:
                self._buffer += await anext(self._stream)
            except StopAsyncIteration:
                raise asyncio.IncompleteReadError(bytes(self._buffer), n) from None
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data
