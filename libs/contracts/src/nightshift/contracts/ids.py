"""Ids are derived, not drawn: handling the same cause twice gives the same ids, and this is all of deduplication."""

from hashlib import sha1
from uuid import UUID, SafeUUID

#: Never changes: every id in every log hangs on it.
NAMESPACE = UUID("6f0e4c1c-3a55-5d0b-9c39-1d2f6f9f7a10")

_NAMESPACE = NAMESPACE.bytes
#: RFC 9562: four bits say version 5, two bits the variant.
_OTHER_BITS = ~(0xF << 76 | 0x3 << 62)
_VERSION_5 = 0x5 << 76 | 0x2 << 62
_set_int, _set_is_safe = vars(UUID)["int"].__set__, vars(UUID)["is_safe"].__set__


def event_id(causation_id: UUID, type: str, index: int = 0) -> UUID:
    """The id of the `index`-th event of this type that this cause leads to."""
    return _derived(f"{causation_id}/{type}/{index}")


def request_cause(type: str, subject: str) -> UUID:
    """The cause a request stands for, from what it is about: the same build asked for twice is one cause."""
    return _derived(f"request/{type}/{subject}")


def message_cause(source: str, message_id: str) -> UUID:
    """The cause a message from outside stands for: CloudEvents makes source and id together unique."""
    return _derived(f"message/{source}/{message_id}")


def _derived(name: str) -> UUID:
    """uuid5(NAMESPACE, name) in a third of its time: every append derives an id for each of its events."""
    digest = sha1(_NAMESPACE + name.encode(), usedforsecurity=False).digest()
    # What UUID(int=…) does after it has looked at six ways of being called.
    derived = UUID.__new__(UUID)
    _set_int(derived, int.from_bytes(digest[:16], "big") & _OTHER_BITS | _VERSION_5)
    _set_is_safe(derived, SafeUUID.unknown)
    return derived
