"""Moves large fields of events to the object store, and leaves a reference (BlobRef) in the event.

The key of the stored object contains the digest of its content.
"""

import asyncio
from functools import cache
from hashlib import sha256
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError

from nightshift.contracts.canonical import dumps, loads
from nightshift.contracts.marks import blob_fields
from nightshift.contracts.model import BlobRef, Event
from nightshift.eventlog.errors import Fault
from nightshift.eventlog.objects.port import ObjectStore

E = TypeVar("E", bound=Event)

#: The largest field, in bytes of UTF-8 or canonical JSON, that stays in the event. Keeps messages far below 1 MiB.
INLINE_LIMIT = 32 * 1024


async def externalize(event: E, store: ObjectStore) -> E:
    """Store each large field in the object store. Returns the event with a BlobRef in place of each stored value.

    Does not change a field that is a BlobRef already, so a second call changes nothing.
    """
    changes: dict[str, BlobRef] = {}
    for name in sorted(blob_fields(type(event))):
        value = getattr(event, name)
        if value is None or isinstance(value, BlobRef) or _is_small(value):
            continue
        body = await asyncio.to_thread(_large_body, value)
        if body is not None:
            digest = await put_blob(body, store)
            changes[name] = BlobRef(ref=f"sha256:{digest}", bytes=len(body))
    return event.model_copy(update=changes) if changes else event


async def materialize(event: E, store: ObjectStore) -> E:
    """Return the event with the stored values in place of its BlobRefs.

    Raises NotFound when a blob is missing, and Fault when its bytes have another digest.
    """
    changes: dict[str, Any] = {}
    for name in sorted(blob_fields(type(event))):
        value = getattr(event, name)
        if isinstance(value, BlobRef):
            body = await _fetch(value, store)
            changes[name] = await asyncio.to_thread(_value, body, text=_is_text(type(event), name))
    return event.model_copy(update=changes) if changes else event


def blob_key(digest: str) -> str:
    """Return the object key of the blob with this SHA-256 digest (hex)."""
    return f"blobs/{digest}"


async def put_blob(body: bytes, store: ObjectStore) -> str:
    """Store the bytes under their SHA-256 digest and return the digest in hex."""
    digest = await asyncio.to_thread(_digest, body)
    await store.put_if_absent(blob_key(digest), body)
    return digest


async def _fetch(reference: BlobRef, store: ObjectStore) -> bytes:
    digest = reference.ref.removeprefix("sha256:")
    body = await store.get(blob_key(digest))
    if len(body) != reference.bytes or await asyncio.to_thread(_digest, body) != digest:
        raise Fault(
            f"blob {digest}: the stored bytes have another digest", hint="the object store changed it"
        )
    return body


def _is_small(value: Any) -> bool:
    """Return True when the value certainly fits into the event. Returns False when only encoding the value can tell.

    Encoding every field in a thread would cost more than all other work of an append, and nearly every field is small.
    """
    if isinstance(value, dict) and "ref" in value:
        return False
    try:
        return _room_left(value, INLINE_LIMIT) >= 0
    except RecursionError:
        return False


def _room_left(value: Any, room: int) -> int:
    r"""Return how many bytes of `room` the longest JSON form of this value leaves free. Negative when the value does
    not fit.

    A character takes at most 6 bytes (`\u0000`), or 12 beyond the basic plane (a surrogate pair).
    """
    if room < 0:
        return room
    if isinstance(value, str):
        return room - (6 if value.isascii() else 12) * len(value) - 4
    if isinstance(value, dict):
        for name, inner in value.items():
            room = _room_left(inner, room - 12 * len(name) - 8)
        return room
    if isinstance(value, list | tuple):
        for inner in value:
            room = _room_left(inner, room - 2)
        return room
    if isinstance(value, int) and not isinstance(value, bool):
        return room - value.bit_length() - 4
    return room - 32


def _large_body(value: Any) -> bytes | None:
    """Return the bytes to store in the object store, or None when the value stays in the event.

    Lone surrogates are kept, because the output of a tool may contain them.
    """
    if isinstance(value, str):
        body = value.encode(errors="surrogatepass")
        return body if len(body) > INLINE_LIMIT else None
    body = dumps(value).encode()
    return body if len(body) > INLINE_LIMIT or _looks_like_reference(value) else None


def _looks_like_reference(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        BlobRef.model_validate(value)
    except ValidationError:
        return False
    return True


@cache
def _is_text(model: type[Event], name: str) -> bool:
    return _holds_text(model.model_fields[name].annotation)


def _holds_text(annotation: Any) -> bool:
    if get_origin(annotation) in (dict, tuple):  # stored as JSON
        return False
    return annotation is str or any(map(_holds_text, get_args(annotation)))


def _value(body: bytes, *, text: bool) -> Any:
    if text:
        return body.decode(errors="surrogatepass")
    value = loads(body)
    return tuple(value) if isinstance(value, list) else value


def _digest(body: bytes) -> str:
    return sha256(body).hexdigest()
