"""Opens the snapshots of a project for commands that also work without snapshots."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from nightshift.cli.connect import settings_for
from nightshift.eventlog.errors import ConfigurationError
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.sandboxes.settings import SnapshotSettings
from nightshift.sandboxes.snapshots.store import SnapshotStore


@asynccontextmanager
async def snapshot_store(home: Path, project_id: str) -> AsyncIterator[SnapshotStore | None]:
    """Yields the snapshot store of a project, or None when its key or the object store is not configured."""
    try:
        settings = settings_for(SnapshotSettings, home)
    except ConfigurationError:
        yield None
        return
    async with S3ObjectStore(settings) as objects:
        yield SnapshotStore(objects, settings.project_key(project_id))
