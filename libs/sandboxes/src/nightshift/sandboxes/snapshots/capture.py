"""Saves the workspace of a sandbox in the object store, as the workspace was at a checkpoint."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from nightshift.eventlog.errors import Transient
from nightshift.sandboxes.errors import SandboxUnavailable
from nightshift.sandboxes.port import Entry, Sandbox, Stage
from nightshift.sandboxes.snapshots.known_trees import KnownTree
from nightshift.sandboxes.snapshots.manifest import Manifest, storable, tree_digest
from nightshift.sandboxes.snapshots.off_loop import off_loop
from nightshift.sandboxes.snapshots.packs import ReadFile
from nightshift.sandboxes.snapshots.rules import DEFAULT_EXCLUDE, RULES_FILE, read_rules
from nightshift.sandboxes.snapshots.store import SnapshotStore, Upload

Consistency = Literal["exact", "late", "torn"]

_TRIES = 3
#: A manifest is stored whole when it differs from its base in more than this part of the tree, and in more than this
#: number of paths.
_DELTA_PART, _DELTA_PATHS = 0.2, 200


class TreeMoved(Transient):
    """Files changed during every attempt to read the workspace. A later attempt may succeed, when no process writes."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A stored snapshot, with the fields of the event `snapshot.saved`.

    `skipped` maps paths that the snapshot does not contain to the reasons. The values of `consistency`:

    - `exact`: this is the tree of the checkpoint.
    - `late`: a tool call may have written after the checkpoint and before the tree was read.
    - `torn`: the files in `torn` changed while they were read.
    """

    key: str
    tree_digest: str
    files: int
    bytes: int
    uploaded_bytes: int
    skipped: Mapping[str, str]
    consistency: Consistency = "exact"
    torn: tuple[str, ...] = ()
    staged: bool = True  # True: the sandbox keeps the stage until the caller says `stored`


async def capture(
    sandbox: Sandbox,
    store: SnapshotStore,
    build_id: str,
    *,
    at_version: int,
    reason: str,
    exclude: Sequence[str] = DEFAULT_EXCLUDE,
    exact: bool = False,
    fresh: bool = False,
) -> Captured:
    """Save the tree of the checkpoint `at_version`. `reason` becomes part of the snapshot's key.

    The caller must call `stored` of the sandbox once the snapshot is recorded in the log. If `exact`, the stored tree
    existed at one moment, otherwise TreeMoved is raised. If `fresh` or `exact`, every file is read. Raises TreeMoved,
    HostileTree, UploadTookTooLong and SandboxGone.
    """
    rules = await read_rules(sandbox, exclude)
    known = store.trees.of(build_id, sandbox.id)
    sent = 0
    for attempt in range(_TRIES):
        stage = await sandbox.stage(
            at_version,
            base=None if known is None else known.mark,
            fresh=fresh or exact,
            again=attempt > 0,
            exclude=rules.exclude,
        )
        if known is not None and stage.base is not None and not (stage.entries or stage.gone or stage.torn):
            return replace(_captured(known, stage, sent, rules.problem), staged=False)
        await store.refresh()
        work = _Capture(sandbox, store, build_id, at_version, reason)
        await work.apply(stage, known)
        await work.upload()
        sent += work.sent
        torn = sorted({*stage.torn, *work.torn})
        if exact and torn:
            continue
        tree, manifest_bytes = await work.write(known)
        store.trees.remember(build_id, tree)
        captured = _captured(tree, stage, sent + manifest_bytes, rules.problem)
        return replace(captured, consistency="torn", torn=tuple(torn)) if torn else captured
    raise TreeMoved(f"the workspace changed while it was read, {_TRIES} times")


def _captured(tree: KnownTree, stage: Stage, sent: int, problem: str | None) -> Captured:
    unused = {} if problem is None or RULES_FILE not in tree.entries else {RULES_FILE: problem}
    skipped = {**tree.skipped, **unused}
    consistency: Consistency = "late" if stage.late else "exact"
    return Captured(tree.key, tree.tree_digest, tree.files, tree.bytes, sent, skipped, consistency)


@dataclass(slots=True)
class _Capture:
    """One attempt to save the workspace.

    - `tree`: the entries by path.
    - `changed`: the paths in which the tree differs from the newest manifest with a whole tree. None when no such
      manifest is known, so that the new manifest must contain the whole tree.
    """

    sandbox: Sandbox
    store: SnapshotStore
    build_id: str
    at_version: int
    reason: str
    tree: dict[str, Entry] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    changed: set[str] | None = None
    torn: set[str] = field(default_factory=set)
    sent: int = 0

    async def apply(self, stage: Stage, known: KnownTree | None) -> None:
        """Set `tree` to the tree of the stage: apply its differences to the known tree.

        Asks the sandbox for the whole tree when the difference does not suffice or is too large.
        """
        if stage.base is not None and known is not None:
            if not known.skipped and not self.store.is_doomed(known.whole):
                listing = await off_loop(storable, stage.entries, self.store.key, self.store.limits)
                changed = {*known.changed, *stage.gone, *(entry.path for entry in listing.entries)}
                few = len(changed) <= max(_DELTA_PATHS, _DELTA_PART * len(known.entries))
                if few and not listing.skipped:
                    self.tree = await off_loop(_applied, known.entries, listing.entries, stage.gone)
                    self.changed = changed
                    if self._fits():
                        return
            stage = await self.sandbox.stage(self.at_version)
        listing = await off_loop(storable, stage.entries, self.store.key, self.store.limits)
        self.tree, self.skipped = {entry.path: entry for entry in listing.entries}, dict(listing.skipped)
        self.changed = None

    def _fits(self) -> bool:
        limits, entries = self.store.limits, self.tree.values()
        total = sum(entry.size for entry in entries if entry.link is None)
        return len(self.tree) <= limits.entries and total <= limits.total_bytes

    async def upload(self) -> None:
        """Store the contents that are not stored yet.

        A file whose content does not have the listed digest is read a second time. Then its content is stored as it
        is, and the file counts as torn.
        """
        upload = self.store.begin_upload()
        try:
            for attempt in range(2):
                unread = self._unknown()
                if unread:
                    await self._read(upload, unread, last=attempt == 1)
            await upload.finish()
        except BaseException:
            await upload.abandon()
            raise
        self.sent = upload.sent
        self.tree = _linked(self.tree, self.skipped)

    async def _read(self, upload: Upload, unread: set[str], *, last: bool) -> None:
        missing = set(unread)
        async for block in self.sandbox.export_files(self.at_version, sorted(unread)):
            files, problems = await upload.add(block)
            for path, problem in problems.items():
                self._drop(path, problem)
            missing.difference_update(problems)
            for file in files:
                if file.path not in unread:
                    raise SandboxUnavailable("the sandbox's agent sends files that were not asked for")
                missing.discard(file.path)
                if file.digest != self.tree[file.path].digest and last:
                    self._take(file)
        for path in missing:  # an empty file has a part too, so this file is gone
            self._drop(path, "it was removed before it was saved")

    def _take(self, file: ReadFile) -> None:
        self.tree[file.path] = replace(self.tree[file.path], size=file.size, digest=file.digest)
        self.torn.add(file.path)

    def _drop(self, path: str, problem: str) -> None:
        del self.tree[path]
        self.skipped[path] = problem
        self.torn.add(path)

    def _unknown(self) -> set[str]:
        """Return the paths of the files for the new manifest whose content may not be stored yet."""
        files = self.tree.values() if self.changed is None else self._entries(self.changed)
        return {
            entry.path
            for entry in files
            if entry.kind == "file" and entry.link is None and not self.store.knows(entry.digest or "")
        }

    def _entries(self, paths: Iterable[str]) -> list[Entry]:
        """Return the existing entries with these paths, sorted by path."""
        return [self.tree[path] for path in sorted(paths) if path in self.tree]

    async def write(self, known: KnownTree | None) -> tuple[KnownTree, int]:
        """Write the manifest, unless the tree equals the known one.

        Returns the tree that the manifest contains, and the number of bytes sent.
        """
        if known is not None and self.changed is None and self._same(known):
            return await off_loop(replace, known, mark=self.at_version), 0
        changed = self.changed
        entries = self._entries(self.tree if changed is None else changed)
        gone = [path for path in sorted(changed or ()) if path not in self.tree]
        blobs, pieces = await off_loop(self.store.located, entries)
        manifest = Manifest(self.build_id, self.at_version, tuple(entries), blobs, pieces, self.skipped)
        whole = None if changed is None or known is None else known.whole
        key, sent = await self.store.put_manifest(manifest, reason=self.reason, base=whole, gone=gone)
        return await off_loop(self._known, key, whole or key), sent

    def _same(self, known: KnownTree) -> bool:
        return (
            self.tree == known.entries
            and self.skipped == known.skipped
            and not self.store.is_doomed(known.key)
        )

    def _known(self, key: str, whole: str) -> KnownTree:
        digest, changed = tree_digest(self._entries(self.tree)), frozenset(self.changed or ())
        return KnownTree(
            self.sandbox.id, self.at_version, key, digest, self.tree, self.skipped, whole, changed
        )


def _applied(known: Mapping[str, Entry], changed: Iterable[Entry], gone: Iterable[str]) -> dict[str, Entry]:
    tree = dict(known)
    for path in gone:
        tree.pop(path, None)
    tree.update((entry.path, entry) for entry in changed)
    return tree


def _linked(tree: Mapping[str, Entry], skipped: dict[str, str]) -> dict[str, Entry]:
    """Return the entries. A hard link gets the digest and the size with which its first file was read.

    Leaves out the links to a file that is gone, and adds them to `skipped`.
    """
    entries = dict[str, Entry]()
    for path, entry in tree.items():
        first = tree.get(entry.link) if entry.link is not None else None
        if first is not None:
            same = (entry.digest, entry.size) == (first.digest, first.size)
            entries[path] = entry if same else replace(first, path=path, link=first.path)
        elif entry.link is None:
            entries[path] = entry
        else:
            skipped[path] = skipped.get(entry.link, "the file that it is a link of is gone")
    return entries
