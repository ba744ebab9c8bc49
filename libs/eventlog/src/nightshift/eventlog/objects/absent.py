"""Replaces the object store in a service whose settings name none."""

from collections.abc import AsyncIterator

from nightshift.eventlog.errors import ConfigurationError
from nightshift.eventlog.objects.port import ObjectInfo


class NoObjectStore:
    """An object store that raises ConfigurationError at every call."""

    async def put(self, key: str, body: bytes) -> None:
        raise _missing(key)

    async def put_if_absent(self, key: str, body: bytes) -> bool:
        raise _missing(key)

    async def get(self, key: str) -> bytes:
        raise _missing(key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        raise _missing(key)

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        raise _missing(prefix)

    async def delete(self, key: str) -> None:
        raise _missing(key)


def _missing(key: str) -> ConfigurationError:
    return ConfigurationError(
        f"the object {key} is needed, and this process has no object store",
        hint="set NIGHTSHIFT_S3_BUCKET and the other NIGHTSHIFT_S3_ variables of the installation",
    )
