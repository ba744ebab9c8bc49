"""The object store as its users see it; S3 and the in-memory store pass the same conformance suite."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    key: str
    bytes: int


class ObjectStore(Protocol):
    """Keys are `/`-separated and relative. Raises NotFound, and Unavailable after trying again inside."""

    async def put(self, key: str, body: bytes) -> None: ...

    async def put_if_absent(self, key: str, body: bytes) -> bool:
        """True when this call wrote it, false when it was there."""
        ...

    async def get(self, key: str) -> bytes: ...

    async def get_range(self, key: str, start: int, length: int) -> bytes: ...

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]: ...

    async def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        ...
