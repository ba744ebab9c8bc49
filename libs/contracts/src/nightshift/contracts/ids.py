"""Ids are derived, not drawn: handling the same cause twice gives the same ids, and this is all of deduplication."""

from uuid import UUID, uuid5

#: Never changes: every id in every log hangs on it.
NAMESPACE = UUID("6f0e4c1c-3a55-5d0b-9c39-1d2f6f9f7a10")


def event_id(causation_id: UUID, type: str, index: int = 0) -> UUID:
    """The id of the `index`-th event of this type that this cause leads to."""
    return uuid5(NAMESPACE, f"{causation_id}/{type}/{index}")


def request_cause(type: str, subject: str) -> UUID:
    """The cause a request stands for, from what it is about: the same build asked for twice is one cause."""
    return uuid5(NAMESPACE, f"request/{type}/{subject}")


def message_cause(source: str, message_id: str) -> UUID:
    """The cause a message from outside stands for: CloudEvents makes source and id together unique."""
    return uuid5(NAMESPACE, f"message/{source}/{message_id}")
