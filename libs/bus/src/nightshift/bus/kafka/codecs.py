"""Decompresses record batches up to a size limit, because a small batch may expand beyond the memory of the process."""

from collections.abc import Callable
from typing import Final

import cramjam

#: The codec number in a batch's attributes → the name of the codec. Numbers 5 to 7 are unused.
NAMES: Final = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}

#: The Java clients begin a stream of snappy blocks with these bytes and two version numbers.
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = 16
_FIRST_GUESS: Final = 65_536
# Cramjam raises one exception class for a full buffer and for broken data; only the text differs.
_BUFFER_FULL: Final = "failed to write whole buffer"

_INTO: Final[dict[int, Callable[[bytes, bytearray], int]]] = {
    1: cramjam.gzip.decompress_into,
    3: cramjam.lz4.decompress_into,
    4: cramjam.zstd.decompress_into,
}


class ExpandsTooFar(ValueError):
    """The data expands to more bytes than the caller allows."""


def decompress(codec: int, data: bytes, *, limit: int) -> bytes:
    """Return the decompressed bytes. `codec` is the number from the attributes of the batch.

    Raises ExpandsTooFar when they are more than `limit` bytes. Raises ValueError when the codec is unknown or the data
    is broken.
    """
    if codec not in NAMES:
        raise ValueError(f"unknown codec {codec}")
    try:
        return _snappy(data, limit) if codec == 2 else _stream(_INTO[codec], data, limit)
    except cramjam.DecompressionError as error:
        raise ValueError(f"{NAMES[codec]} does not decompress: {error}") from None


def _stream(into: Callable[[bytes, bytearray], int], data: bytes, limit: int) -> bytes:
    """Decompress into a small buffer. When that is too small, decompress again into one of `limit` bytes.

    `into` decompresses into a given buffer. Most batches expand little, and allocating `limit` bytes takes
    milliseconds.
    """
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
