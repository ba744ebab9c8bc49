"""Derives event ids from their cause, so that handling a message twice leads to the same event ids.

The event log refuses an id that it has, so the consequences of a message are appended only once.
"""

from hashlib import sha1
from uuid import UUID

#: Must never change, because every event id in every log is derived from it.
NAMESPACE = UUID("6f0e4c1c-3a55-5d0b-9c39-1d2f6f9f7a10")

_NAMESPACE = NAMESPACE.bytes
#: RFC 9562: four bits say version 5, two bits the variant.
_VERSION_5 = tuple(bytes([octet & 0x0F | 0x50]) for octet in range(256))
_VARIANT = tuple(bytes([octet & 0x3F | 0x80]) for octet in range(256))


def event_id(causation_id: UUID, type: str, index: int = 0) -> UUID:
    """Returns the id of an event that follows from this cause. `index` numbers events of the same type from 0."""
    return UUID(bytes=event_id_bytes(causation_id, type, index))


def event_id_bytes(causation_id: UUID, type: str, index: int = 0) -> bytes:
    """Returns the same id as `event_id`, but as 16 bytes, for callers with a faster UUID class."""
    return _derived(f"{causation_id}/{type}/{index}")


def request_cause(type: str, subject: str) -> UUID:
    """Returns the causation id of the events that follow from a request about this build or account.

    A second request of the same type about the same build or account gets the same causation id.
    """
    return UUID(bytes=_derived(f"request/{type}/{subject}"))


def message_cause(source: str, message_id: str) -> UUID:
    """Returns the causation id of the events that follow from the message that `source` and `message_id` identify."""
    return UUID(bytes=_derived(f"message/{source}/{message_id}"))


def _derived(name: str) -> bytes:
    """Returns the bytes of `uuid5(NAMESPACE, name)`, but faster, because each appended event needs an id."""
    digest = sha1(_NAMESPACE + name.encode(), usedforsecurity=False).digest()
    return digest[:6] + _VERSION_5[digest[6]] + digest[7:8] + _VARIANT[digest[8]] + digest[9:16]
