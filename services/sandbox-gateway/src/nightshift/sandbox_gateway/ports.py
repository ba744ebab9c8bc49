"""The protocols that the use cases need and adapters implement."""

from collections.abc import Callable
from typing import Protocol

from nightshift.sandboxes.snapshots.store import SnapshotStore

#: Project id → the store of its snapshots.
SnapshotStores = Callable[[str], SnapshotStore]


#: Sandbox id and port → the signed address of the preview. Returns None when previews have the driver's addresses.
PreviewLink = Callable[[str, int], str | None]


class PreviewProbe(Protocol):
    async def status(self, url: str) -> int | None:
        """The HTTP status of a GET. Returns None when nothing that speaks HTTP answered."""
        ...
