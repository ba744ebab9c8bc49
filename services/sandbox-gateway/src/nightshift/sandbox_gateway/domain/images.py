"""Recognises images that the Messages API accepts, and checks that they are complete.

The Messages API would refuse a request with another image.
"""

import struct
import zlib
from dataclasses import dataclass

#: The most bytes, and pixels per side, of an image in the Messages API (Anthropic's vision page: 5 MB of base64).
MAX_BYTES = 3_750_000
MAX_PIXELS = 8_000


@dataclass(frozen=True, slots=True)
class Image:
    """A recognised image. `problem` says why the model cannot be shown the image, or is None when it can."""

    media_type: str
    width: int = 0
    height: int = 0
    problem: str | None = None


def recognise(data: bytes, size: int) -> Image | None:
    """Return the image in a file, or None when the file is no PNG, JPEG, GIF or WebP.

    `size` is the size of the whole file in bytes. If it exceeds MAX_BYTES, `data` may be only the beginning of the
    file.
    """
    for media_type, magic, measure in (
        ("image/png", b"\x89PNG\r\n\x1a\n", _png),
        ("image/jpeg", b"\xff\xd8\xff", _jpeg),
        ("image/gif", b"GIF8", _gif),
        ("image/webp", b"RIFF", _webp),
    ):
        if data.startswith(magic) and (magic != b"RIFF" or data[8:12] == b"WEBP"):
            if size > MAX_BYTES:
                return Image(
                    media_type, problem=f"its {size} bytes are more than the {MAX_BYTES} that can be shown"
                )
            try:
                width, height = measure(data)
            except (ValueError, IndexError, struct.error, zlib.error):
                return Image(media_type, problem="the file is damaged or incomplete")
            if not 0 < width <= MAX_PIXELS or not 0 < height <= MAX_PIXELS:
                problem = f"{width}×{height} pixels; at most {MAX_PIXELS} a side can be shown"
                return Image(media_type, width, height, problem)
            return Image(media_type, width, height)
    return None


def _png(data: bytes) -> tuple[int, int]:
    at, pixels, ended = 8, False, False
    while not ended:
        length, kind = struct.unpack_from(">I4s", data, at)
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(data[at + 4 : at + 8 + length]) != checksum:
            raise ValueError(kind)
        pixels, ended = pixels or kind == b"IDAT", kind == b"IEND"
        at += 12 + length
    if not pixels or data[12:16] != b"IHDR":
        raise ValueError("no pixels")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg(data: bytes) -> tuple[int, int]:
    if b"\xff\xd9" not in data[-64:]:
        raise ValueError("no end")
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ValueError("no marker")
        marker = data[at + 1]
        if marker == 0xFF or 0xD0 <= marker <= 0xD8 or marker == 0x01:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD9, 0xDA):
            raise ValueError("no frame")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        (length,) = struct.unpack_from(">H", data, at + 2)
        at += 2 + length


def _gif(data: bytes) -> tuple[int, int]:
    if data[:6] not in (b"GIF87a", b"GIF89a") or b"\x3b" not in data[-16:] or b"," not in data[13:]:
        raise ValueError("no end")
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _webp(data: bytes) -> tuple[int, int]:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise ValueError("cut")
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(kind)
