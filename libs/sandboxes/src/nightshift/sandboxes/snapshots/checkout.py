"""Writes the files of a snapshot into a folder on this machine."""

import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import IO

from nightshift.sandboxes.agent.confined_paths import Root
from nightshift.sandboxes.agent.digest_cache import DigestCache
from nightshift.sandboxes.agent.imports import import_
from nightshift.sandboxes.client import import_body
from nightshift.sandboxes.snapshots.compare import compare
from nightshift.sandboxes.snapshots.manifest import Manifest
from nightshift.sandboxes.snapshots.off_loop import off_loop
from nightshift.sandboxes.snapshots.restore import contents
from nightshift.sandboxes.snapshots.store import SnapshotStore

_SPOOL_BYTES = 64 * 1024**2


async def checkout(store: SnapshotStore, manifest: Manifest, folder: Path) -> Mapping[str, str]:
    """Create the snapshot's files below the empty `folder`. Never writes outside it, and follows no symlink of the
    snapshot.

    Returns the paths that the snapshot lacks or that could not be created, with the reasons.
    """
    wanted = contents(store, manifest, compare((), manifest.entries))
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
        await _write(import_body(wanted), spool)
        spool.seek(0)
        done = await off_loop(import_, Root(str(folder)), spool, DigestCache(os.devnull))
    refused = {str(path): str(text) for path, text in done["refused"]}
    return {**manifest.skipped, **await off_loop(_missing, manifest, folder), **refused}


def _missing(manifest: Manifest, folder: Path) -> dict[str, str]:
    text = "its content is missing or corrupt in the object store"
    return {entry.path: text for entry in manifest.entries if not os.path.lexists(folder / entry.path)}


async def _write(parts: AsyncIterator[bytes], spool: IO[bytes]) -> None:
    async for part in parts:
        await off_loop(spool.write, part)


async def contents_of(store: SnapshotStore, manifest: Manifest, paths: set[str]) -> dict[str, bytes | None]:
    """Return the contents of the small files among `paths` in a snapshot. A missing or corrupt content is None."""
    entries = [
        entry for entry in manifest.entries if entry.path in paths and entry.digest not in manifest.pieces
    ]
    return {entry.path: content async for entry, content in store.read(manifest, entries)}
