"""Opens the snapshots of a project, with the key of the installation."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from nightshift.cli.connect import settings_for
from nightshift.devstack.stack.home import snapshot_key
from nightshift.eventlog.errors import ConfigurationError
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.settings import ObjectStoreSettings
from nightshift.sandboxes.snapshots.manifest import ProjectKey
from nightshift.sandboxes.snapshots.store import SnapshotStore


@asynccontextmanager
async def snapshot_store(home: Path, project_id: str) -> AsyncIterator[SnapshotStore | None]:
    """Opens the snapshots of a project. Yields None when the key or the object store is not known here."""
    key = os.environ.get("NIGHTSHIFT_SNAPSHOT_KEY") or _key_of(home)
    try:
        settings = settings_for(ObjectStoreSettings, home)
    except ConfigurationError:
        key = None
    if key is None:
        yield None
        return
    async with S3ObjectStore(settings) as objects:
        yield SnapshotStore(objects, ProjectKey.derive(key.encode(), project_id))


def _key_of(home: Path) -> str | None:
    """Returns the key of a stack on this folder. It is never created here."""
    return snapshot_key(home) if (home / "snapshot.key").is_file() else None
