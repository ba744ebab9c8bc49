"""An object store in memory, for tests and simulation."""

from collections.abc import AsyncIterator

from nightshift.eventlog.errors import NotFound
from nightshift.eventlog.objects.port import ObjectInfo, check_key
from nightshift.eventlog.wire import Wire, called


class MemoryObjectStore:
    """The ObjectStore port in memory: `bodies` maps keys to bytes.

    Several stores with the same dict act like several clients of one server.
    """

    def __init__(self, bodies: dict[str, bytes] | None = None, *, wire: Wire | None = None) -> None:
        self.bodies: dict[str, bytes] = {} if bodies is None else bodies
        self._wire = wire

    async def put(self, key: str, body: bytes) -> None:
        check_key(key)
        await called(self._wire, "objects.put", lambda: self.bodies.update({key: bytes(body)}))

    async def put_if_absent(self, key: str, body: bytes) -> bool:
        check_key(key)

        def put() -> bool:
            if key in self.bodies:
                return False
            self.bodies[key] = bytes(body)
            return True

        return await called(self._wire, "objects.put_if_absent", put)

    async def get(self, key: str) -> bytes:
        check_key(key)
        body = await called(self._wire, "objects.get", lambda: self.bodies.get(key))
        if body is None:
            raise NotFound(f"no object {key}")
        return body

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        return (await self.get(key))[start : start + length]

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        for key in await called(self._wire, "objects.list", lambda: sorted(self.bodies)):
            if key.startswith(prefix) and key in self.bodies:
                yield ObjectInfo(key, len(self.bodies[key]))

    async def delete(self, key: str) -> None:
        check_key(key)
        await called(self._wire, "objects.delete", lambda: self.bodies.pop(key, None))
