"""Saves the workspace of a sandbox in a store (`capture`) and puts it into a sandbox (`restore`)."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

import structlog

from nightshift.eventlog.errors import Transient
from nightshift.sandboxes.port import Entry, ExportedFile, Sandbox
from nightshift.sandboxes.snapshots.compare import HealPlan, compare, must_go
from nightshift.sandboxes.snapshots.manifest import Manifest, check, storable, tree_digest
from nightshift.sandboxes.snapshots.store import SnapshotStore

_log = structlog.get_logger(__name__)

#: Names and glob patterns that snapshots leave out by default: tools generate these files again.
DEFAULT_EXCLUDE: tuple[str, ...] = (
    "node_modules",
    "__pycache__",
    "*.pyc",
    ".venv",
    "venv",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".cache",
    ".npm",
    ".parcel-cache",
    ".turbo",
)


_TRIES = 3


class TreeMoved(Transient):
    """The tree changed at every attempt to read it. Try again when nothing writes."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A stored snapshot, with the fields of `snapshot.saved`."""

    key: str
    tree_digest: str
    files: int
    bytes: int
    uploaded_bytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored workspace, with the fields of `sandbox.restored`."""

    tree_digest: str
    files: int
    healed: int  # entries written again, because the first comparison found them different
    lost: tuple[str, ...]


async def capture(
    sandbox: Sandbox,
    store: SnapshotStore,
    build_id: str,
    *,
    at_version: int,
    reason: str,
    exclude: Sequence[str] = DEFAULT_EXCLUDE,
    exact: bool = False,
) -> Captured:
    """Save the workspace. With `exact`, a second listing proves that the stored tree existed at one moment.

    Without `exact`, a file that changes meanwhile is stored as it was read. Raises TreeMoved, HostileTree and
    SandboxGone.
    """
    await store.refresh()
    sent = 0
    before = await sandbox.list_tree(exclude=exclude)
    for _ in range(_TRIES):
        check(storable(before, store.key), store.limits)
        actual, uploaded = await _upload(sandbox, store, before)
        sent += uploaded
        if exact:
            after = await sandbox.list_tree(exclude=exclude)
            if storable(after, store.key) != actual:
                before = after
                continue
        key, manifest, manifest_bytes = await store.put_manifest(
            build_id, at_version=at_version, reason=reason, entries=actual
        )
        return Captured(key, manifest.tree_digest, manifest.files, manifest.bytes, sent + manifest_bytes)
    raise TreeMoved(f"the workspace changed while it was read, {_TRIES} times")


async def _upload(
    sandbox: Sandbox, store: SnapshotStore, listed: Sequence[Entry]
) -> tuple[tuple[Entry, ...], int]:
    """Upload the unknown contents. Returns the entries as they were read, and the bytes sent."""
    keyed = {entry.path: entry for entry in storable(listed, store.key)}
    unread = {
        path for path, entry in keyed.items() if entry.kind == "file" and not store.knows(entry.digest or "")
    }

    async def contents() -> AsyncIterator[tuple[str, bytes]]:
        async for file in sandbox.export_files(sorted(unread)):
            digest = store.key.of(file.content)
            was = keyed[file.entry.path]
            keyed[was.path] = replace(
                was, size=len(file.content), mode=file.entry.mode & 0o777, digest=digest
            )
            unread.discard(was.path)
            yield digest, file.content

    sent = await store.put_blobs(contents())
    for path in unread:  # removed between the listing and the reading
        del keyed[path]
    return tuple(keyed.values()), sent


async def restore(sandbox: Sandbox, store: SnapshotStore, key: str) -> Restored:
    """Make the workspace equal to the snapshot: write what is missing or different, remove what is extra.

    Compares again afterwards and repairs once more; an entry that still differs is in `lost`. Raises NotFound and
    HostileTree before it changes anything.
    """
    manifest = await store.load(key)
    await _apply(sandbox, store, manifest, *await _plan(sandbox, store, manifest))
    plan, present = await _plan(sandbox, store, manifest)
    healed = 0
    if not plan.empty:
        healed = await _apply(sandbox, store, manifest, plan, present)
        plan, present = await _plan(sandbox, store, manifest)
    lost = tuple(entry.path for entry in (*plan.missing, *plan.different, *plan.extra))
    return Restored(tree_digest(present), manifest.files, healed, lost)


async def _plan(
    sandbox: Sandbox, store: SnapshotStore, manifest: Manifest
) -> tuple[HealPlan, tuple[Entry, ...]]:
    """Returns the changes to make, and the entries that exist."""
    present = storable(await sandbox.list_tree(exclude=DEFAULT_EXCLUDE), store.key)
    return compare(present, manifest.entries), present


async def _apply(
    sandbox: Sandbox, store: SnapshotStore, manifest: Manifest, plan: HealPlan, present: Sequence[Entry]
) -> int:
    """Returns the number of entries written."""
    for path in must_go(plan, present):
        await sandbox.remove(path)
    wanted = {
        kind: [entry for entry in plan.wanted if entry.kind == kind]
        for kind in ("directory", "file", "symlink")
    }

    async def entries() -> AsyncIterator[ExportedFile]:
        for entry in wanted["directory"]:
            yield ExportedFile(entry)
        async for entry, content in store.read(manifest, wanted["file"]):
            if content is None:
                _log.warning("snapshot.blob_missing", build_id=manifest.build_id, digest=entry.digest)
            else:
                yield ExportedFile(entry, content)
        for entry in wanted["symlink"]:
            yield ExportedFile(entry)

    return await sandbox.import_files(entries()) if plan.wanted else 0
