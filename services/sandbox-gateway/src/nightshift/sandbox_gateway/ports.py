"""The ports of the sandbox gateway: the protocols that its adapters implement."""

from collections.abc import Callable
from typing import Protocol

from nightshift.sandboxes.snapshots.store import SnapshotStore

#: Returns the snapshot store of the project with this id.
SnapshotStores = Callable[[str], SnapshotStore]


#: Returns the signed URL of the preview of (sandbox id, port), or None when previews have the driver's URLs.
PreviewLink = Callable[[str, int], str | None]


class PreviewProbe(Protocol):
    async def status(self, url: str) -> int | None:
        """Return the HTTP status of a GET request, or None when no HTTP server answers."""
        ...
