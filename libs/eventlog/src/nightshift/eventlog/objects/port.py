"""The port of the object store. S3 and the in-memory store pass the same conformance suite."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from nightshift.eventlog.errors import Refused


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """The key of an object, and its size in bytes."""

    key: str
    bytes: int


class ObjectStore(Protocol):
    """Stores bytes under relative keys separated by `/`.

    Every call retries while the server does not answer, then raises Unavailable. A read of a key that does not exist
    raises NotFound.
    """

    async def put(self, key: str, body: bytes) -> None: ...

    async def put_if_absent(self, key: str, body: bytes) -> bool:
        """Store the bytes unless the key exists already. Returns whether this call stored them."""

    async def get(self, key: str) -> bytes: ...

    async def get_range(self, key: str, start: int, length: int) -> bytes: ...

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]: ...

    async def delete(self, key: str) -> None:
        """Delete the object. Does nothing when it does not exist."""


def check_key(key: str) -> str:
    """Return the key. Raises Refused for a key that is empty, absolute, too long or contains `..`."""
    if not key or len(key) > 1024 or any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise Refused(f"not an object key: {key[:128]!r}")
    return key
