"""Saves the workspace of a sandbox in a store (`capture`) and puts it into a sandbox (`restore`)."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from nightshift.contracts.events.snapshot import PathProblem
from nightshift.eventlog.errors import Transient
from nightshift.sandboxes.errors import FileRefused
from nightshift.sandboxes.port import Entry, ExportedFile, Sandbox
from nightshift.sandboxes.snapshots.compare import HealPlan, compare, difference, must_go
from nightshift.sandboxes.snapshots.manifest import Listing, Manifest, storable, tree_digest
from nightshift.sandboxes.snapshots.store import SnapshotStore, heavy

_log = structlog.get_logger(__name__)

#: Names and glob patterns of directories that snapshots leave out by default: tools make them again.
DEFAULT_EXCLUDE: tuple[str, ...] = (
    "node_modules",
    "__pycache__",
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
#: How many paths an event names, and in how many characters at most.
_NAMED, _NAMED_BYTES = 200, 32 * 1024


class TreeMoved(Transient):
    """The tree changed at every attempt to read it. Try again when nothing writes."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A stored snapshot, with the fields of `snapshot.saved`. `skipped`: path and reason of what it does not hold."""

    key: str
    tree_digest: str
    files: int
    bytes: int
    uploaded_bytes: int
    skipped: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored workspace, with the fields of `sandbox.restored`.

    `differs`: path and reason of what is not as it was; `lost` are those of them whose content is not there.
    """

    tree_digest: str
    files: int
    healed: int  # entries written again, because the first comparison found them different
    lost: tuple[str, ...]
    differs: Mapping[str, str]


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
    sent = 0
    before = await _listing(sandbox, store, exclude, fresh=exact)
    for _ in range(_TRIES):
        actual, uploaded = await _upload(sandbox, store, before)
        sent += uploaded
        if exact:
            after = await _listing(sandbox, store, exclude)
            if after.entries != actual.entries:
                before = after
                continue
        key, manifest, manifest_bytes = await store.put_manifest(
            build_id, at_version=at_version, reason=reason, tree=actual
        )
        return Captured(
            key,
            await asyncio.to_thread(tree_digest, actual.entries),
            manifest.files,
            manifest.bytes,
            sent + manifest_bytes,
            actual.skipped,
        )
    raise TreeMoved(f"the workspace changed while it was read, {_TRIES} times")


async def _listing(
    sandbox: Sandbox, store: SnapshotStore, exclude: Sequence[str], *, fresh: bool = False
) -> Listing:
    listed = await sandbox.list_tree(exclude=exclude, fresh=fresh)
    return await asyncio.to_thread(storable, listed, store.key, store.limits)


async def _upload(sandbox: Sandbox, store: SnapshotStore, listed: Listing) -> tuple[Listing, int]:
    """Upload the unknown contents. Returns the tree as it was read, and the bytes sent."""
    tree = {entry.path: entry for entry in listed.entries}
    skipped = dict(listed.skipped)
    unread = _unknown(tree, store)
    if not unread:
        return listed, 0
    await store.refresh()
    unread = _unknown(tree, store)
    large: dict[str, list[str]] = {}

    async def contents() -> AsyncIterator[tuple[str, bytes]]:
        path, whole, size, pieces = "", hashlib.sha256(), 0, list[str]()
        async for file in sandbox.export_files(sorted(unread)):
            if file.entry.path != path:
                path, whole, size, pieces = file.entry.path, hashlib.sha256(), 0, []
            if file.entry.problem is not None:
                skipped[path] = file.entry.problem
                continue
            digest = await heavy(len(file.content), store.key.of, file.content)
            size += len(file.content)
            if file.more or pieces:
                await asyncio.to_thread(whole.update, file.content)
                pieces.append(digest)
            yield digest, file.content
            if file.more:
                continue
            if pieces:
                digest = store.key.digest(whole.hexdigest())
                large[digest] = pieces
            read = file.entry
            tree[path] = replace(
                tree[path], size=size, mode=read.mode & 0o777, mtime_ns=read.mtime_ns, digest=digest
            )
            unread.discard(path)

    sent = await store.put_blobs(contents())
    for digest, pieces in large.items():
        store.learn_pieces(digest, pieces)
    for path in unread:  # removed between the listing and the reading, or skipped
        del tree[path]
    return Listing(_linked(tree, skipped), skipped), sent


def _unknown(tree: Mapping[str, Entry], store: SnapshotStore) -> set[str]:
    """The files whose content is not known to be stored."""
    files = (entry for entry in tree.values() if entry.kind == "file" and entry.link is None)
    return {entry.path for entry in files if not store.knows(entry.digest or "")}


def _linked(tree: Mapping[str, Entry], skipped: dict[str, str]) -> tuple[Entry, ...]:
    """The entries, with the hard links as their first file was read. Drops the links of a file that is gone."""
    entries = []
    for entry in tree.values():
        first = tree.get(entry.link) if entry.link is not None else None
        if first is not None:
            entries.append(replace(first, path=entry.path, link=first.path))
        elif entry.link is None:
            entries.append(entry)
        elif entry.link in skipped:
            skipped[entry.path] = skipped[entry.link]
    return tuple(entries)


async def restore(sandbox: Sandbox, store: SnapshotStore, key: str) -> Restored:
    """Make the workspace equal to the snapshot: write what is missing or different, remove what is extra.

    Compares again afterwards and repairs once more; what still differs is in `differs`. Raises NotFound and
    HostileTree before it changes anything.
    """
    manifest = await store.load(key)
    _, refused = await _apply(sandbox, store, manifest, *await _plan(sandbox, store, manifest))
    plan, present = await _plan(sandbox, store, manifest)
    healed = 0
    if not plan.empty:
        healed, refused = await _apply(sandbox, store, manifest, plan, present, links=False)
        plan, present = await _plan(sandbox, store, manifest)
    differs = dict(manifest.skipped)
    for entry in (*plan.missing, *plan.different):
        differs[entry.path] = refused.get(entry.path, "its content is missing or corrupt in the object store")
    for entry in plan.extra:
        differs[entry.path] = refused.get(entry.path, "it is not in the snapshot and could not be removed")
    lost = tuple(differs)
    have = {entry.path: entry for entry in present}
    for entry in plan.touched:
        differs[entry.path] = refused.get(entry.path) or difference(have[entry.path], entry)
    return Restored(await asyncio.to_thread(tree_digest, present), manifest.files, healed, lost, differs)


async def _plan(
    sandbox: Sandbox, store: SnapshotStore, manifest: Manifest
) -> tuple[HealPlan, tuple[Entry, ...]]:
    """Returns the changes to make, and the entries that exist."""
    present = (await _listing(sandbox, store, DEFAULT_EXCLUDE, fresh=True)).entries
    return await asyncio.to_thread(compare, present, manifest.entries), present


async def _apply(
    sandbox: Sandbox,
    store: SnapshotStore,
    manifest: Manifest,
    plan: HealPlan,
    present: Sequence[Entry],
    *,
    links: bool = True,
) -> tuple[int, dict[str, str]]:
    """Returns the number of entries written, and path and reason of those that were refused.

    Without `links`, writes a hard link whose file is not there as a file of its own.
    """
    refused: dict[str, str] = {}
    for path in must_go(plan, present):
        try:
            await sandbox.remove(path)
        except FileRefused as error:
            refused[path] = str(error)
    if not plan.wanted:
        return 0, refused
    done = await sandbox.import_files(_wanted(store, manifest, plan, links=links))
    return done.count, {**refused, **done.refused}


async def _wanted(
    store: SnapshotStore, manifest: Manifest, plan: HealPlan, *, links: bool
) -> AsyncIterator[ExportedFile]:
    """Yields what the plan asks for: directories, files, then what refers to them."""
    touched = {entry.path for entry in plan.touched if entry.link is None or not links}
    linked = [entry for entry in plan.wanted if links and entry.link is not None]
    files = [entry for entry in plan.wanted if entry.kind == "file" and not (links and entry.link)]
    written = [replace(entry, link=None) for entry in files if entry.path not in touched]
    for entry in plan.wanted:
        if entry.kind == "directory":
            yield ExportedFile(entry)
    async for entry, content in store.read(manifest, [e for e in written if e.digest not in manifest.pieces]):
        if content is None:
            _log.warning("snapshot.blob_missing", build_id=manifest.build_id, digest=entry.digest)
        else:
            yield ExportedFile(entry, content)
    for entry in written:
        if entry.digest in manifest.pieces:
            async for piece in store.read_large(manifest, entry):
                yield ExportedFile(entry, piece, more=True)
            yield ExportedFile(entry)
    for entry in files:
        if entry.path in touched:
            yield ExportedFile(replace(entry, link=None), keep=True)
    for entry in (*linked, *(entry for entry in plan.wanted if entry.kind == "symlink")):
        yield ExportedFile(entry)


def named(differs: Mapping[str, str]) -> tuple[PathProblem, ...]:
    """The first of these paths and reasons, as many as an event can hold."""
    problems, size = list[PathProblem](), 0
    for path, text in differs.items():
        size += len(path) + len(text)
        if len(problems) == _NAMED or size > _NAMED_BYTES:
            break
        problems.append(PathProblem(path=path, reason=text[:200]))
    return tuple(problems)
