"""Opens the snapshots of a build with the installation's object store and the key of the project."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cyclopts

from nightshift.cli.connect import settings_for
from nightshift.cli.moments import version_at
from nightshift.cli.output import note
from nightshift.cli.queries import open_builds
from nightshift.contracts.events.build import BuildAccepted
from nightshift.eventlog.errors import NotFound
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.port import RecordedEvent
from nightshift.sandboxes.settings import SnapshotSettings
from nightshift.sandboxes.snapshots.at import snapshot_at
from nightshift.sandboxes.snapshots.manifest import Manifest
from nightshift.sandboxes.snapshots.store import SnapshotStore

#: The option `--at` of commands about files. Without it the newest snapshot is used.
FilesAt = Annotated[
    str | None,
    cyclopts.Parameter("--at", help="turn:7, a version, or a time. Default, the newest snapshot."),
]


@dataclass(frozen=True, slots=True)
class BuildSnapshots:
    """The snapshots of one build, with the build's events and the snapshot store of its project."""

    build_id: str
    events: Sequence[RecordedEvent]
    store: SnapshotStore
    settings: SnapshotSettings

    async def load(self, at: str | None) -> tuple[int, str, Manifest]:
        """Return the version, the key and the manifest of the snapshot at the moment `at` (None: now).

        Prints a note when the snapshot is not exactly of this moment. Raises NotFound, WrongUsage for an unclear
        moment, and HostileTree for a manifest that breaks a rule.
        """
        version = self.events[-1].version if at is None else version_at(self.events, at)
        chosen = snapshot_at(self.events, version)
        if chosen is None:
            raise NotFound(
                f"{self.build_id} has no snapshot by then",
                hint="`nightshift snapshots` lists those that it has",
            )
        if not chosen.exact:
            note(f"the nearest snapshot is of version {chosen.at_version}: later calls may have written")
        return chosen.at_version, chosen.key, await self.store.load(chosen.key)


@contextlib.asynccontextmanager
async def open_snapshots(home: Path, build_id: str) -> AsyncIterator[BuildSnapshots]:
    """Opens the snapshots of a build. Raises NotFound, ConfigurationError and Unavailable."""
    async with open_builds(home) as builds:
        events = await builds.events(build_id)
    settings = settings_for(SnapshotSettings, home)
    accepted = (event.data for event in events if isinstance(event.data, BuildAccepted))
    project = next((fact.project_id for fact in accepted), None)
    if project is None:
        raise NotFound(f"{build_id} was never accepted, so it has no files")
    async with S3ObjectStore(settings) as objects:
        yield BuildSnapshots(
            build_id, events, SnapshotStore(objects, settings.project_key(project)), settings
        )
