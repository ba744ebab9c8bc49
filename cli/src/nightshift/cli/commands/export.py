"""`nightshift export`: writes a build into an archive, which is one file."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated

import cyclopts

from nightshift.cli.archive import SUFFIX, write_archive
from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json, settings_for
from nightshift.cli.output import note, progress, write_json
from nightshift.cli.queries import open_builds
from nightshift.cli.snapshot_store import snapshot_store
from nightshift.contracts.events.build import BuildAccepted, BuildForked, BuildRewound
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.contracts.marks import blob_fields
from nightshift.contracts.model import BlobRef
from nightshift.eventlog.errors import NotFound
from nightshift.eventlog.large import blob_key
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.port import RecordedEvent
from nightshift.eventlog.settings import ObjectStoreSettings
from nightshift.sandboxes.snapshots.store import SnapshotStore

app = cyclopts.App(name="export")

Flag = Annotated[bool, cyclopts.Parameter(negative=())]


@app.default
async def export(
    build: BuildId,
    *,
    output: Annotated[Path | None, cyclopts.Parameter(name=("--output", "-o"))] = None,
    redact: Flag = False,
    files: Flag = False,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Write a build into one archive: its events as CloudEvents, and their texts in the object store.

    `replay`, `verify`, `compare` and `redrive` read the archive in place of a build's id, without any server.

    For example:

        nightshift export build-4f1c2a -o night.nightshift.zip --files

        nightshift export build-4f1c2a --redact

    Args:
        output: The file. Default, the build's id with the suffix .nightshift.zip.
        redact: Leave out what people and models wrote, and all objects. Ids, types, sizes, times and money stay.
        files: Also the manifests and packs of its snapshots. Packs may hold files of other builds of the project.
    """
    async with open_builds(home) as builds:
        events = await builds.events(build)
    path = output or Path(f"{build}{SUFFIX}")
    objects: dict[str, bytes] = {}
    if not redact:
        async with S3ObjectStore(settings_for(ObjectStoreSettings, home)) as store:
            objects = await _fetched(store, _blob_keys(events))
            if files:
                objects |= await _fetched(store, await _snapshot_keys(home, events))
    pairs = [(key, lambda body=body: body) for key, body in objects.items()]
    await asyncio.to_thread(write_archive, path, events, pairs, redact=redact)
    size = path.stat().st_size
    if json:
        write_json(
            {
                "path": str(path),
                "events": len(events),
                "objects": len(objects),
                "bytes": size,
                "redacted": redact,
            }
        )
    else:
        note(f"{path}: {len(events)} events, {len(objects)} objects, {size:,} bytes")


def _blob_keys(events: Sequence[RecordedEvent]) -> list[str]:
    """Returns the object keys of the event fields that are stored by reference."""
    found: dict[str, None] = {}
    for event in events:
        for name in blob_fields(type(event.data)):
            value = getattr(event.data, name)
            if isinstance(value, BlobRef):
                found[blob_key(value.ref.removeprefix("sha256:"))] = None
    return list(found)


async def _snapshot_keys(home: Path, events: Sequence[RecordedEvent]) -> list[str]:
    """Returns the object keys of the manifests and packs of all snapshots in these events."""
    accepted = events[0].data
    project = accepted.project_id if isinstance(accepted, BuildAccepted) else ""
    async with snapshot_store(home, project) as store:
        if store is None:
            note("the snapshots cannot be read without NIGHTSHIFT_SNAPSHOT_KEY: the archive has none")
            return []
        return [key async for key in _needed(store, events)]


async def _needed(store: SnapshotStore, events: Sequence[RecordedEvent]) -> AsyncIterator[str]:
    seen: set[str] = set()
    for event in events:
        fact = event.data
        key = fact.key if isinstance(fact, SnapshotSaved) else None
        if isinstance(fact, BuildForked | BuildRewound):
            key = fact.snapshot_key
        if key is None or key in seen:
            continue
        try:
            manifest = await store.load(key)
        except NotFound:
            continue  # `nightshift gc` has removed it
        packs = {at.pack for at in manifest.blobs.values()}
        for one in (key, *packs, *(pack.removesuffix(".pack") + ".index" for pack in packs)):
            if one not in seen:
                seen.add(one)
                yield one


async def _fetched(store: ObjectStore, keys: Sequence[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number, key in enumerate(keys, start=1):
        try:
            found[key] = await store.get(key)
        except NotFound:
            note(f"not in the object store, left out: {key}")
        progress(f"{number} of {len(keys)} objects")
    return found
