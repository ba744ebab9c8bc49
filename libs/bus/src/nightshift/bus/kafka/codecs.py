"""Decompresses record batches, each within a limit: a small batch may expand to more than the process has memory."""

from collections.abc import Callable
from typing import Final

import cramjam

#: The attribute bits of a batch → the codec's name. Codecs 5 to 7 do not exist.
NAMES: Final = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}

#: Begins a stream of snappy blocks as the Java clients frame it; two version numbers follow.
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = 16
_FIRST_GUESS: Final = 65_536
_BUFFER_FULL: Final = "failed to write whole buffer"  # cramjam has one exception for this and for broken data

_INTO: Final[dict[int, Callable[[bytes, bytearray], int]]] = {
    1: cramjam.gzip.decompress_into,
    3: cramjam.lz4.decompress_into,
    4: cramjam.zstd.decompress_into,
}


class ExpandsTooFar(ValueError):
    """The data decompresses to more bytes than the caller's limit."""


def decompress(codec: int, data: bytes, *, limit: int) -> bytes:
    """Return the decompressed bytes.

    Raises ExpandsTooFar when they are more than `limit`, and ValueError when the codec is unknown or the data broken.
    """
    if codec not in NAMES:
        raise ValueError(f"unknown codec {codec}")
    try:
        return _snappy(data, limit) if codec == 2 else _stream(_INTO[codec], data, limit)
    except cramjam.DecompressionError as error:
        raise ValueError(f"{NAMES[codec]} does not decompress: {error}") from None


def _stream(into: Callable[[bytes, bytearray], int], data: bytes, limit: int) -> bytes:
    """Tries a small buffer first: most batches expand a little, and a buffer of the limit costs milliseconds."""
    for size in (min(max(_FIRST_GUESS, 8 * len(data)), limit), limit):
        buffer = bytearray(size)
        try:
            return bytes(memoryview(buffer)[: into(data, buffer)])
        except cramjam.DecompressionError as error:
            if _BUFFER_FULL not in str(error):
                raise
    raise ExpandsTooFar(f"the batch expands to more than {limit} bytes")


def _snappy(data: bytes, limit: int) -> bytes:
    if not data.startswith(_XERIAL):
        return _snappy_block(data, limit)
    blocks, at = bytearray(), _XERIAL_HEADER_BYTES
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big", signed=True)
        at += 4
        if not 0 < size <= len(data) - at:
            raise ValueError("snappy: a block is cut short")
        blocks += _snappy_block(data[at : at + size], limit - len(blocks))
        at += size
    return bytes(blocks)


def _snappy_block(data: bytes, limit: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(data) > limit:
        raise ExpandsTooFar(f"the batch expands to more than {limit} bytes")
    return bytes(cramjam.snappy.decompress_raw(data))
