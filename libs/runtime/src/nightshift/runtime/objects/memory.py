"""The object store in this process, for tests and simulation. It passes the conformance suite of the port."""

from collections.abc import AsyncIterator

from nightshift.runtime.errors import NotFound
from nightshift.runtime.objects.keys import check_key
from nightshift.runtime.objects.port import ObjectInfo


class MemoryObjectStore:
    """The port over a dict."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    async def put(self, key: str, body: bytes) -> None:
        """See the port."""
        self.bodies[check_key(key)] = bytes(body)

    async def put_if_absent(self, key: str, body: bytes) -> bool:
        """See the port."""
        if check_key(key) in self.bodies:
            return False
        self.bodies[key] = bytes(body)
        return True

    async def get(self, key: str) -> bytes:
        """See the port."""
        try:
            return self.bodies[check_key(key)]
        except KeyError:
            raise NotFound(f"no object {key}") from None

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """See the port."""
        return (await self.get(key))[start : start + length]

    async def head(self, key: str) -> ObjectInfo | None:
        """See the port."""
        body = self.bodies.get(check_key(key))
        return None if body is None else ObjectInfo(key, len(body))

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """See the port."""
        for key in sorted(self.bodies):
            if key.startswith(prefix) and key in self.bodies:
                yield ObjectInfo(key, len(self.bodies[key]))

    async def delete(self, key: str) -> None:
        """See the port."""
        self.bodies.pop(check_key(key), None)
