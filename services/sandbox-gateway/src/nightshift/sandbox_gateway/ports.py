"""The protocols that the use cases need and adapters implement."""

from collections.abc import Callable
from typing import Protocol

from nightshift.sandboxes.snapshots.store import SnapshotStore

#: Project id → the store of its snapshots.
SnapshotStores = Callable[[str], SnapshotStore]


class PreviewProbe(Protocol):
    async def status(self, url: str) -> int | None:
        """The HTTP status of a GET. Returns None when nothing that speaks HTTP answered."""
        ...
