"""Ids are derived, not drawn: handling the same cause twice gives the same ids, and this is all of deduplication."""

from hashlib import sha1
from uuid import UUID

#: Never changes: every id in every log hangs on it.
NAMESPACE = UUID("6f0e4c1c-3a55-5d0b-9c39-1d2f6f9f7a10")

_NAMESPACE = NAMESPACE.bytes
#: RFC 9562: four bits say version 5, two bits the variant.
_VERSION_5 = tuple(bytes([octet & 0x0F | 0x50]) for octet in range(256))
_VARIANT = tuple(bytes([octet & 0x3F | 0x80]) for octet in range(256))


def event_id(causation_id: UUID, type: str, index: int = 0) -> UUID:
    """The id of the `index`-th event of this type that this cause leads to."""
    return UUID(bytes=event_id_bytes(causation_id, type, index))


def event_id_bytes(causation_id: UUID, type: str, index: int = 0) -> bytes:
    """The 16 bytes of that id, for who makes many and has a quicker UUID than the standard library's."""
    return _derived(f"{causation_id}/{type}/{index}")


def request_cause(type: str, subject: str) -> UUID:
    """The cause a request stands for, from what it is about: the same build asked for twice is one cause."""
    return UUID(bytes=_derived(f"request/{type}/{subject}"))


def message_cause(source: str, message_id: str) -> UUID:
    """The cause a message from outside stands for: CloudEvents makes source and id together unique."""
    return UUID(bytes=_derived(f"message/{source}/{message_id}"))


def _derived(name: str) -> bytes:
    """uuid5(NAMESPACE, name) without the detour over a UUID: every append derives an id for each of its events."""
    digest = sha1(_NAMESPACE + name.encode(), usedforsecurity=False).digest()
    return digest[:6] + _VERSION_5[digest[6]] + digest[7:8] + _VARIANT[digest[8]] + digest[9:16]
