"""`nightshift diff`: prints what changed in the files of a build between two moments."""

import difflib
from collections.abc import Iterator
from typing import Annotated

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.output import note, write_json, write_line
from nightshift.cli.snapshot_access import open_snapshots
from nightshift.sandboxes.port import Entry
from nightshift.sandboxes.snapshots.checkout import contents_of
from nightshift.sandboxes.snapshots.compare import HealPlan, compare

app = cyclopts.App(name="diff")

#: Changes of larger files are listed without their text.
_TEXT_BYTES = 512 * 1024
_Moment = Annotated[str, cyclopts.Parameter(help="turn:7, a version, or a time.")]


@app.default
async def diff(
    build: BuildId,
    a: _Moment,
    b: _Moment,
    *,
    names_only: Annotated[bool, cyclopts.Parameter(negative=(), help="Print paths without texts.")] = False,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Print what changed in the files of a build from moment A to moment B, as `git diff` does.

    For example:

        nightshift diff build-4f1c2a turn:3 turn:7
    """
    async with open_snapshots(home, build) as snapshots:
        _, _, before = await snapshots.load(a)
        _, _, after = await snapshots.load(b)
        plan = compare(before.entries, after.entries)
        old = {entry.path: entry for entry in before.entries}
        rows = list(_changes(plan, old))
        paths = {path for _, path, text in rows if text and not names_only}
        texts = (
            await contents_of(snapshots.store, before, paths),
            await contents_of(snapshots.store, after, paths),
        )
    if json:
        write_json([{"change": change, "path": path} for change, path, _ in rows])
        return
    if not rows:
        note("nothing changed")
    for change, path, _ in rows:
        write_line(f"{change} {path}")
        for line in _text(path, texts[0].get(path, b""), texts[1].get(path, b"")) if path in paths else ():
            write_line(line)


def _changes(plan: HealPlan, old: dict[str, Entry]) -> Iterator[tuple[str, str, bool]]:
    """Yields each change, sorted by path: its kind, its path, and whether its text may be shown."""
    rows = [
        *(("added", entry, None) for entry in plan.missing),
        *(("removed", entry, entry) for entry in plan.extra),
        *(("changed", entry, old[entry.path]) for entry in plan.different),
        *(("mode", entry, None) for entry in plan.touched if entry.mode != old[entry.path].mode),
    ]
    for change, entry, before in sorted(rows, key=lambda row: row[1].path):
        sizes = [one.size for one in (entry, before) if one is not None and one.kind == "file"]
        yield change, entry.path, change != "mode" and bool(sizes) and max(sizes) <= _TEXT_BYTES


def _text(path: str, before: bytes | None, after: bytes | None) -> Iterator[str]:
    """Yields the lines of a unified diff, or one line that says why there is no diff."""
    if before is None or after is None:
        yield "  its content is missing or corrupt in the object store"
        return
    try:
        old, new = before.decode("utf-8"), after.decode("utf-8")
    except UnicodeDecodeError:
        old = new = "\0"
    if "\0" in old + new:
        yield f"  binary: {len(before):,} and {len(after):,} bytes"
        return
    yield from difflib.unified_diff(old.splitlines(), new.splitlines(), path, path, lineterm="")
