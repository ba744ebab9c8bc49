"""Derives event ids from their cause, so that a message that is handled twice leads to the same ids.

The event log refuses an id that exists, so it appends what follows from a message once.
"""

from hashlib import sha1
from uuid import UUID

#: Must never change: every id in every log is derived from it.
NAMESPACE = UUID("6f0e4c1c-3a55-5d0b-9c39-1d2f6f9f7a10")

_NAMESPACE = NAMESPACE.bytes
#: RFC 9562: four bits say version 5, two bits the variant.
_VERSION_5 = tuple(bytes([octet & 0x0F | 0x50]) for octet in range(256))
_VARIANT = tuple(bytes([octet & 0x3F | 0x80]) for octet in range(256))


def event_id(causation_id: UUID, type: str, index: int = 0) -> UUID:
    """Returns the id of an event that follows from this cause. `index` numbers its events of the same type from 0."""
    return UUID(bytes=event_id_bytes(causation_id, type, index))


def event_id_bytes(causation_id: UUID, type: str, index: int = 0) -> bytes:
    """Returns the id as 16 bytes, for callers that make many ids and have a faster UUID type."""
    return _derived(f"{causation_id}/{type}/{index}")


def request_cause(type: str, subject: str) -> UUID:
    """Returns the causation id of what follows from a request about this subject, also when it is sent twice."""
    return UUID(bytes=_derived(f"request/{type}/{subject}"))


def message_cause(source: str, message_id: str) -> UUID:
    """Returns the causation id of what follows from a message from outside, which `source` and `id` identify."""
    return UUID(bytes=_derived(f"message/{source}/{message_id}"))


def _derived(name: str) -> bytes:
    """Returns the bytes of `uuid5(NAMESPACE, name)`, faster: every append derives an id for each of its events."""
    digest = sha1(_NAMESPACE + name.encode(), usedforsecurity=False).digest()
    return digest[:6] + _VERSION_5[digest[6]] + digest[7:8] + _VARIANT[digest[8]] + digest[9:16]
