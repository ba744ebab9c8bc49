"""Restores a snapshot in a sandbox: makes the workspace equal to the stored tree, and reports the remaining
differences.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from nightshift.contracts.events.snapshot import PathProblem
from nightshift.sandboxes.agent.held_directories import HOME
from nightshift.sandboxes.agent.walk import Exclude
from nightshift.sandboxes.errors import FileRefused
from nightshift.sandboxes.port import CallSpec, Entry, ExportedFile, Sandbox
from nightshift.sandboxes.snapshots.compare import HealPlan, compare, difference, must_go
from nightshift.sandboxes.snapshots.manifest import ROOT, Manifest, storable, tree_digest
from nightshift.sandboxes.snapshots.off_loop import off_loop
from nightshift.sandboxes.snapshots.rules import RULES_FILE, read_rules
from nightshift.sandboxes.snapshots.store import SnapshotStore

_log = structlog.get_logger(__name__)

#: How many paths an event may name, and in how many characters.
_NAMED, _NAMED_BYTES = 200, 32 * 1024
#: Seconds that one command of `rebuild` may take, and how many characters of a failed command's output are kept.
_REBUILD_S, _OUTPUT = 1800.0, 120


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored workspace, with the fields of the event `sandbox.restored`.

    `differs` maps the paths that are not as in the snapshot to the reasons. `lost` are those among them whose content
    is missing from the store.
    """

    tree_digest: str
    files: int
    healed: int  # entries written again, because a first comparison found them different
    lost: tuple[str, ...]
    differs: Mapping[str, str]


async def restore(sandbox: Sandbox, store: SnapshotStore, key: str) -> Restored:
    """Make the workspace equal to the snapshot: write missing and different entries, and remove extra ones.

    Then compares again and repairs once more; `differs` names the paths that are still different. At the end runs the
    project's rebuild commands. Raises NotFound and HostileTree before it changes anything.
    """
    manifest = await store.load(key)
    _, refused = await _apply(sandbox, store, manifest, *await _plan(sandbox, store, manifest, fresh=True))
    plan, present = await _plan(sandbox, store, manifest)
    healed = 0
    if not plan.empty:
        healed, refused = await _apply(sandbox, store, manifest, plan, present, links=False)
        plan, present = await _plan(sandbox, store, manifest, fresh=True)
    differs = dict(manifest.skipped)
    for entry in (*plan.missing, *plan.different):
        differs[entry.path] = refused.get(entry.path, "its content is missing or corrupt in the object store")
    for entry in plan.extra:
        differs[entry.path] = refused.get(entry.path, "it is not in the snapshot and could not be removed")
    lost = tuple(differs)
    have = {entry.path: entry for entry in present}
    for entry in plan.touched:
        differs[entry.path] = refused.get(entry.path) or difference(have[entry.path], entry)
    differs |= await _rebuild(sandbox, manifest)
    return Restored(await off_loop(tree_digest, present), manifest.files, healed, lost, differs)


async def differences(sandbox: Sandbox, store: SnapshotStore, key: str) -> tuple[HealPlan, str]:
    """Return the changes that would make the workspace equal to a snapshot, and the workspace's digest.

    Changes nothing.
    """
    plan, present = await _plan(sandbox, store, await store.load(key), fresh=True)
    return plan, tree_digest(present)


async def _plan(
    sandbox: Sandbox, store: SnapshotStore, manifest: Manifest, *, fresh: bool = False
) -> tuple[HealPlan, tuple[Entry, ...]]:
    """Return the changes that make the workspace equal to the manifest, and the workspace's entries.

    Leaves out entries that snapshots do not contain. If `fresh`, reads every file, even one whose stat has not
    changed.
    """
    rules = await read_rules(sandbox)
    listed = await sandbox.list_tree(fresh=fresh)
    present = (await off_loop(storable, listed, store.key, store.limits)).entries
    present = await off_loop(_counted, present, manifest.entries, rules.exclude)
    return await off_loop(compare, present, manifest.entries), present


def _counted(present: Sequence[Entry], wanted: Sequence[Entry], patterns: Sequence[str]) -> tuple[Entry, ...]:
    """Return the workspace's entries that a comparison with the snapshot counts. These are the entries in the snapshot
    (`wanted`), and those that `patterns` do not exclude from snapshots.

    Older snapshots have no entry of the workspace itself and none of the home, so a restore leaves these alone.
    """
    exclude, paths = Exclude(list(patterns)), {entry.path for entry in wanted}
    unsaid = {ROOT, HOME} - paths
    present = [entry for entry in present if entry.path.partition("/")[0] not in unsaid]
    counted, left_out = list[Entry](), set[str]()
    for entry in present:
        above, _, name = entry.path.rpartition("/")
        directory = entry.kind == "directory"
        if entry.path not in paths and (above in left_out or exclude(entry.path, name, directory)):
            left_out.add(entry.path)
        else:
            counted.append(entry)
    return tuple(counted)


async def _apply(
    sandbox: Sandbox,
    store: SnapshotStore,
    manifest: Manifest,
    plan: HealPlan,
    present: Sequence[Entry],
    *,
    links: bool = True,
) -> tuple[int, dict[str, str]]:
    """Make the changes of `plan`. Returns the number of entries written, and the refused paths with the reasons.

    Unless `links`, a hard link is written as a file of its own when its first file is missing.
    """
    refused: dict[str, str] = {}
    for path in await off_loop(must_go, plan, present):
        try:
            await sandbox.remove(path)
        except FileRefused as error:
            refused[path] = str(error)
    if not (plan.missing or plan.different or plan.touched):
        return 0, refused
    done = await sandbox.import_files(contents(store, manifest, plan, links=links))
    return done.count, {**refused, **done.refused}


@dataclass(frozen=True, slots=True)
class _Order:
    """The entries that `contents` yields, in this order."""

    directories: Sequence[Entry]
    written: Sequence[Entry]
    large: Sequence[Entry]
    touched: Sequence[Entry]
    referring: Sequence[Entry]


def _order(manifest: Manifest, plan: HealPlan, links: bool) -> _Order:
    wanted = plan.wanted
    touched = {entry.path for entry in plan.touched if entry.link is None or not links}
    files = [
        entry if entry.link is None else replace(entry, link=None)
        for entry in wanted
        if entry.kind == "file" and not (links and entry.link)
    ]
    written = [entry for entry in files if entry.path not in touched]
    return _Order(
        [entry for entry in wanted if entry.kind == "directory"],
        [entry for entry in written if entry.digest not in manifest.pieces],
        [entry for entry in written if entry.digest in manifest.pieces],
        [entry for entry in files if entry.path in touched],
        [
            *(entry for entry in wanted if links and entry.link is not None),
            *(entry for entry in wanted if entry.kind == "symlink"),
        ],
    )


async def contents(
    store: SnapshotStore, manifest: Manifest, plan: HealPlan, *, links: bool = True
) -> AsyncIterator[ExportedFile]:
    """Yield the entries that the plan wants: directories, then files, then entries that refer to files, such as hard
    links.

    A file with a missing content is left out. `links` is as for `_apply`.
    """
    order = await off_loop(_order, manifest, plan, links)
    for entry in order.directories:
        yield ExportedFile(entry)
    async for entry, content in store.read(manifest, order.written):
        if content is None:
            _log.warning("snapshot.blob_missing", build_id=manifest.build_id, digest=entry.digest)
        else:
            yield ExportedFile(entry, content)
    for entry in order.large:
        async for piece in store.read_large(manifest, entry):
            yield ExportedFile(entry, piece, more=True)
        yield ExportedFile(entry)
    for entry in order.touched:
        yield ExportedFile(entry, keep=True)
    for entry in order.referring:
        yield ExportedFile(entry)


async def _rebuild(sandbox: Sandbox, manifest: Manifest) -> dict[str, str]:
    """Run the rebuild commands from the project's rules file, `.nightshift/snapshot.yaml`.

    Returns an empty dict, or the path of the rules file with the reason why a command failed.
    """
    if not any(entry.path == RULES_FILE for entry in manifest.entries):
        return {}
    rules = await read_rules(sandbox)
    for number, command in enumerate(rules.rebuild):
        call_id = f"{manifest.build_id}/rebuild-{sandbox.id}/{number}"
        await sandbox.start_call(CallSpec(call_id, ["bash", "-c", command], timeout_s=_REBUILD_S))
        status = await sandbox.wait_call(call_id, wait_s=_REBUILD_S)
        while status.state == "running":
            status = await sandbox.wait_call(call_id, wait_s=60)
        if status.exit_code != 0:
            output = await sandbox.read_output(call_id, "err") or await sandbox.read_output(call_id, "out")
            last = output.decode(errors="replace").strip()[-_OUTPUT:]
            code = "did not end" if status.exit_code is None else f"ended with {status.exit_code}"
            return {RULES_FILE: f"rebuild: `{command[:60]}` {code}: {last}"}
    return {}


def named(differs: Mapping[str, str]) -> tuple[PathProblem, ...]:
    """Return the first of these paths with their reasons, as many as fit into an event. Leaves out all others."""
    problems, size = list[PathProblem](), 0
    for path, text in differs.items():
        size += len(path) + len(text)
        if len(problems) == _NAMED or size > _NAMED_BYTES:
            break
        problems.append(PathProblem(path=path, reason=text[:200]))
    return tuple(problems)
