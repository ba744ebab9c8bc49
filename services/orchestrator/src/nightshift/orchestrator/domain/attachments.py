"""Checks the attachments of a request, and turns them into content blocks of the Messages API. Pure.

The limits are from the vendor's vision and PDF pages, as read on 2026-11-27. A whole request has at most 32 MB, and
attachments are sent in base64.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nightshift.contracts.events.requests import Attachment
from nightshift.eventlog.errors import BadMessage
from nightshift.orchestrator.domain.conversation import IMAGE_TOKENS

Kind = Literal["text", "image", "document"]

#: Tokens of what is sent with an attachment: its media type and the words before it.
_FRAME_TOKENS = 200
_MB = 1_000_000
#: The most bytes of one attachment, by its kind. Each byte of a text counts as a token.
_LARGEST: Mapping[Kind, int] = {"text": 200_000, "image": 3_900_000, "document": 15 * _MB}
_LARGEST_SUM = 18 * _MB
_MOST = 20

#: How the content of an image file begins, by its media type.
_IMAGES: Mapping[str, tuple[bytes, ...]] = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}
_PDF = "application/pdf"
_TEXTS = frozenset(
    {
        "application/json",
        "application/toml",
        "application/xml",
        "application/yaml",
        "application/x-yaml",
        "application/javascript",
        "application/sql",
        "image/svg+xml",
    }
)


def kind_of(media_type: str) -> Kind | None:
    """Return the kind of content block in which the model gets a file of this media type, or None when the model cannot
    get it.
    """
    name = media_type.partition(";")[0].strip().lower()
    if name in _IMAGES:
        return "image"
    if name == _PDF:
        return "document"
    return "text" if name in _TEXTS or name.startswith("text/") else None


def check(attachments: Sequence[Attachment]) -> None:
    """Raise BadMessage, which names the field, for attachments whose type or size the model cannot take."""
    if len(attachments) > _MOST:
        raise _bad("attachments", f"{len(attachments)} files, {_MOST} are allowed")
    for index, one in enumerate(attachments):
        kind = kind_of(one.media_type)
        if kind is None:
            said = f"{one.media_type!r} cannot be attached: text, JPEG, PNG, GIF, WebP and PDF can"
            raise _bad(f"attachments.{index}.media_type", said)
        if not 1 <= one.bytes <= _LARGEST[kind]:
            said = f"{one.bytes} bytes of {one.media_type!r}, 1 to {_LARGEST[kind]} are allowed"
            raise _bad(f"attachments.{index}.bytes", said)
    if (total := sum(one.bytes for one in attachments)) > _LARGEST_SUM:
        raise _bad("attachments", f"{total} bytes in all files, {_LARGEST_SUM} are allowed")


def tokens_bound(attachment: Attachment) -> int:
    """Return an upper bound of the tokens of a checked attachment: one token for each byte, or the maximum for an
    image.
    """
    named = len(attachment.name.encode("utf-8", "surrogatepass")) + _FRAME_TOKENS
    return named + (IMAGE_TOKENS if kind_of(attachment.media_type) == "image" else attachment.bytes)


def blocks(attachment: Attachment, body: bytes, *, field: str) -> tuple[dict[str, Any], ...]:
    """Return the content blocks of a checked attachment.

    Raises BadMessage when the content is not of its media type.
    """
    media_type = attachment.media_type.partition(";")[0].strip().lower()
    kind = kind_of(media_type)
    if kind == "text":
        return (_named(attachment, f"\n\n{_text(body, field)}"),)
    begins = _IMAGES.get(media_type, (b"%PDF-",))
    # A PDF may begin with other bytes. Programs that read PDF look for `%PDF-` in the first 1,024 bytes.
    if not (body.startswith(begins) if kind == "image" else begins[0] in body[:1024]):
        raise _bad(f"{field}.media_type", f"the file is no {media_type}")
    source = {"data": base64.b64encode(body).decode("ascii"), "media_type": media_type, "type": "base64"}
    return _named(attachment, ""), {"source": source, "type": kind}


def _named(attachment: Attachment, text: str) -> dict[str, Any]:
    return {"text": f"Attached file {attachment.name!r} ({attachment.media_type}):{text}", "type": "text"}


def _text(body: bytes, field: str) -> str:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _bad(f"{field}.media_type", "the file is not UTF-8 text") from None
    if not text.strip():
        raise _bad(field, "the file holds no text")
    return text


def _bad(field: str, said: str) -> BadMessage:
    return BadMessage(f"`{field}`: {said}", field=field)
