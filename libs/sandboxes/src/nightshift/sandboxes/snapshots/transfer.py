"""Saves the workspace of a sandbox in a store (`capture`) and puts it into a sandbox (`restore`)."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

import structlog

from nightshift.eventlog.errors import Transient
from nightshift.sandboxes.port import Entry, ExportedFile, Sandbox
from nightshift.sandboxes.snapshots.compare import HealPlan, compare, must_go
from nightshift.sandboxes.snapshots.manifest import Manifest, check, storable, tree_digest
from nightshift.sandboxes.snapshots.store import SnapshotStore

_log = structlog.get_logger(__name__)

#: Names and glob patterns that snapshots leave out by default: tools make them again from the rest.
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
    """A restored workspace, with the fields of `sandbox.restored`. `healed` counts entries written twice."""

    tree_digest: str
    files: int
    written: int
    healed: int
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
    tries: int = 3,
) -> Captured:
    """Save the workspace. With `exact`, a second listing proves that the stored tree existed at one moment.

    Without `exact`, a file that changes meanwhile is stored as it was read. Raises TreeMoved, HostileTree and
    SandboxGone.
    """
    await store.refresh()
    sent = 0
    before = await sandbox.list_tree(exclude=exclude)
    for _ in range(tries):
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
    raise TreeMoved(f"the workspace changed while it was read, {tries} times")


async def _upload(
    sandbox: Sandbox, store: SnapshotStore, listed: Sequence[Entry]
) -> tuple[tuple[Entry, ...], int]:
    """Upload the unknown contents. Returns the entries as they were read, and the bytes sent."""
    keyed = {entry.path: entry for entry in storable(listed, store.key)}
    unknown = [
        path for path, entry in keyed.items() if entry.kind == "file" and not store.knows(entry.digest or "")
    ]
    unread = set(unknown)

    async def contents() -> AsyncIterator[tuple[str, bytes]]:
        async for file in sandbox.export_files(unknown):
            digest = store.key.digest(hashlib.sha256(file.content).hexdigest())
            was = keyed[file.entry.path]
            keyed[was.path] = replace(
                was, size=len(file.content), mode=file.entry.mode & 0o777, digest=digest
            )
            unread.discard(was.path)
            yield digest, file.content

    sent = await store.put_blobs(contents())
    for path in unread:  # gone between the listing and the reading
        del keyed[path]
    return tuple(keyed.values()), sent


async def restore(
    sandbox: Sandbox, store: SnapshotStore, key: str, *, exclude: Sequence[str] = DEFAULT_EXCLUDE
) -> Restored:
    """Make the workspace equal to the snapshot: write what is missing or different, remove what is extra.

    Compares again afterwards and heals once more; what still differs is returned as lost. Raises NotFound and
    HostileTree before anything is changed.
    """
    manifest = await store.load(key)
    written = await _apply(sandbox, store, manifest, await _plan(sandbox, store, manifest, exclude))
    plan, healed = await _plan(sandbox, store, manifest, exclude), 0
    if not plan[0].empty:
        healed = await _apply(sandbox, store, manifest, plan)
        plan = await _plan(sandbox, store, manifest, exclude)
    still, present = plan
    lost = tuple(entry.path for entry in (*still.missing, *still.different, *still.extra))
    return Restored(tree_digest(present), manifest.files, written, healed, lost)


async def _plan(
    sandbox: Sandbox, store: SnapshotStore, manifest: Manifest, exclude: Sequence[str]
) -> tuple[HealPlan, tuple[Entry, ...]]:
    present = storable(await sandbox.list_tree(exclude=exclude), store.key)
    return compare(present, manifest.entries), present


async def _apply(
    sandbox: Sandbox, store: SnapshotStore, manifest: Manifest, planned: tuple[HealPlan, tuple[Entry, ...]]
) -> int:
    plan, present = planned
    for path in must_go(plan, present):
        await sandbox.remove(path)

    async def entries() -> AsyncIterator[ExportedFile]:
        for entry in plan.wanted:
            if entry.kind == "directory":
                yield ExportedFile(entry)
        async for entry, content in store.read(manifest, (e for e in plan.wanted if e.kind == "file")):
            if content is None:
                _log.warning("snapshot.blob_missing", build_id=manifest.build_id, digest=entry.digest)
            else:
                yield ExportedFile(entry, content)
        for entry in plan.wanted:
            if entry.kind == "symlink":
                yield ExportedFile(entry)

    return await sandbox.import_files(entries()) if plan.wanted else 0
