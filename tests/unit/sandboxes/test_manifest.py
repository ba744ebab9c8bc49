"""What a manifest may hold, and that it reads back as it was."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightshift.sandboxes.errors import HostileTree
from nightshift.sandboxes.port import Entry
from nightshift.sandboxes.snapshots.compare import compare, must_go
from nightshift.sandboxes.snapshots.encoding import dump
from nightshift.sandboxes.snapshots.encoding import parse as parse_delta
from nightshift.sandboxes.snapshots.manifest import (
    Location,
    Manifest,
    ProjectKey,
    TreeLimits,
    check,
    storable,
    tree_digest,
)

D = "ab" * 32
EMPTY = Manifest("b", 1, (), {})
LIMITS = TreeLimits(entries=1000, total_bytes=10_000, file_bytes=5_000, depth=8)


def parse(data: bytes, limits: TreeLimits) -> Manifest:
    """As a store reads it: onto its base, which is empty here."""
    found = parse_delta(data, limits)
    return found.own if found.base is None else found.onto(EMPTY, limits)


def manifest(*rows: object, blobs: object = None, **more: object) -> bytes:
    value = {
        "format": 1,
        "build_id": "b",
        "at_version": 1,
        "entries": list(rows),
        "blobs": blobs or {},
        **more,
    }
    return json.dumps(value).encode()


HOSTILE = {
    "absolute": manifest(["/etc/passwd", "file", 0o644, 1, D]),
    "parent": manifest(["../x", "file", 0o644, 1, D]),
    "parent inside": manifest(["a", "directory", 0o755], ["a/../../x", "file", 0o644, 1, D]),
    "dot": manifest(["./x", "file", 0o644, 1, D]),
    "empty part": manifest(["a//x", "file", 0o644, 1, D]),
    "trailing slash": manifest(["a/", "directory", 0o755]),
    "empty": manifest(["", "file", 0o644, 1, D]),
    "nul": manifest(["a\0b", "file", 0o644, 1, D]),
    "lone surrogate outside of names": manifest(["\ud800x", "file", 0o644, 1, D]),
    "twice": manifest(["a", "file", 0o644, 1, D], ["a", "file", 0o644, 1, D]),
    "file as parent": manifest(["a", "file", 0o644, 1, D], ["a/b", "file", 0o644, 1, D]),
    "symlink then file through it": manifest(["a", "symlink", "/etc"], ["a/b", "file", 0o644, 1, D]),
    "symlink then directory through it": manifest(["a", "symlink", ".."], ["a/b", "directory", 0o755]),
    "no parent": manifest(["a/b", "file", 0o644, 1, D]),
    "fifo": manifest(["a", "fifo", 0o644]),
    "device": manifest(["a", "device", 0o644, 1, 3]),
    "other": manifest(["a", "other", 0o644]),
    "setuid": manifest(["a", "file", 0o4755, 1, D]),
    "negative mode": manifest(["a", "file", -1, 1, D]),
    "mode as text": manifest(["a", "file", "755", 1, D]),
    "true as size": manifest(["a", "file", 0o644, True, D]),
    "negative size": manifest(["a", "file", 0o644, -5, D]),
    "huge size": manifest(["a", "file", 0o644, 2**60, D]),
    "large file": manifest(["a", "file", 0o644, 5_001, D]),
    "large tree": manifest(*([f"f{n}", "file", 0o644, 4_000, D] for n in range(3))),
    "too many": manifest(*([f"f{n}", "directory", 0o755] for n in range(1001))),
    "too deep": manifest(["/".join("abcdefghi"), "file", 0o644, 1, D]),
    "long part": manifest(["x" * 256, "file", 0o644, 1, D]),
    "long path": manifest(["/".join(["x" * 250] * 17), "file", 0o644, 1, D]),
    "not a digest": manifest(["a", "file", 0o644, 1, "../../secret"]),
    "digest of another kind": manifest(["a", "file", 0o644, 1, 5]),
    "empty target": manifest(["a", "symlink", ""]),
    "nul in target": manifest(["a", "symlink", "x\0y"]),
    "target is no text": manifest(["a", "symlink", 5]),
    "path is no text": manifest([5, "file", 0o644, 1, D]),
    "fields missing": manifest(["a", "file"]),
    "fields too many": manifest(["a", "directory", 0o755, 1]),
    "entries is an object": json.dumps({"format": 1, "entries": {}, "blobs": {}}).encode(),
    "unknown format": manifest(format=4),
    "difference without a base": manifest(format=3),
    "difference that leads out": manifest(format=3, base="b") + b'\n{"entries":[["../a","directory",493,5]]}',
    "difference below nothing": manifest(format=3, base="b") + b'\n{"entries":[["a/b","directory",493,5]]}',
    "rows of format 1 under format 2": manifest(["a", "directory", 0o755], format=2)
    + b'\n{"entries":[["a","directory",493]]}',
    "time as text": manifest(format=2) + b'\n{"entries":[["a","directory",493,"5"]]}',
    "link to nothing": manifest(format=2)
    + json.dumps({"entries": [["a", "link", 0o644, 1, D, "b", 5]]}).encode(),
    "link to a directory": manifest(format=2)
    + b"\n"
    + json.dumps({"entries": [["a", "directory", 0o755, 5], ["b", "link", 0o644, 1, D, "a", 5]]}).encode(),
    "blob out of range": manifest(blobs={D: ["p", -1, 5]}),
    "blob without a digest": manifest(blobs={"x": ["p", 0, 5]}),
    "not json": b"\x00\x01",
    "not an object": b"[]",
    "deep": b"[" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused(name: str) -> None:
    with pytest.raises(HostileTree):
        parse(HOSTILE[name], LIMITS)


def test_a_million_entries_are_refused_before_they_are_decoded() -> None:
    body = (
        b'{"format":1,"build_id":"b","at_version":1,"blobs":{},"entries":['
        + b",".join([b"0"] * 1_000_000)
        + b"]}"
    )
    with pytest.raises(HostileTree, match="entries"):
        parse(body, LIMITS)
    with pytest.raises(HostileTree, match="too large"):
        parse(body, replace(LIMITS, manifest_bytes=1000))


names = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=20
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 256)


@st.composite
def trees(draw: st.DrawFn) -> tuple[Entry, ...]:
    """Sound trees, up to three deep."""
    entries: dict[str, Entry] = {}

    def fill(prefix: str, depth: int) -> None:
        for name in draw(st.sets(names, max_size=4)):
            kind = draw(st.sampled_from(["file", "directory", "symlink"]))
            mode, time = draw(st.integers(0, 0o777)), draw(st.integers(-(2**62), 2**62))
            if kind == "file":
                digest = draw(st.sampled_from([f"{n:064x}" for n in range(5)]))
                entries[prefix + name] = Entry(
                    prefix + name,
                    "file",
                    mode=mode,
                    size=draw(st.integers(0, 99)),
                    digest=digest,
                    mtime_ns=time,
                )
            elif kind == "symlink":
                entries[prefix + name] = Entry(prefix + name, "symlink", target=draw(names), mtime_ns=time)
            else:
                entries[prefix + name] = Entry(prefix + name, "directory", mode=mode, mtime_ns=time)
                if depth < 3:
                    fill(f"{prefix}{name}/", depth + 1)

    fill("", 1)
    return tuple(sorted(entries.values(), key=lambda entry: entry.path))


@given(trees())
def test_a_manifest_reads_back_as_it_was(tree: tuple[Entry, ...]) -> None:
    one = Manifest("b1", 7, tree, {e.digest: Location("p", 3, 5) for e in tree if e.digest})
    assert parse(dump(one), TreeLimits()) == one
    assert dump(parse(dump(one), TreeLimits())) == dump(one)


@given(trees(), trees())
def test_healing_a_tree_gives_the_wanted_one(present: tuple[Entry, ...], wanted: tuple[Entry, ...]) -> None:
    plan = compare(present, wanted)
    tree = {entry.path: entry for entry in present}
    for gone in must_go(plan, present):
        for path in list(tree):
            if path == gone or path.startswith(gone + "/"):
                del tree[path]
    for entry in plan.wanted:
        parent = entry.path.rpartition("/")[0]
        assert not parent or tree[parent].kind == "directory", "parents come first"
        tree[entry.path] = entry
    assert tuple(sorted(tree.values(), key=lambda entry: entry.path)) == wanted
    assert compare(tuple(tree.values()), wanted).empty


@given(trees(), trees())
def test_a_tree_has_one_digest_and_another_tree_another(
    one: tuple[Entry, ...], other: tuple[Entry, ...]
) -> None:
    """Times are not in it: the same work at another time gives the same digest."""
    timeless = [tuple(replace(entry, mtime_ns=None) for entry in tree) for tree in (one, other)]
    assert (tree_digest(one) == tree_digest(other)) == (timeless[0] == timeless[1])


def test_a_listing_becomes_storable_and_the_rest_is_named() -> None:
    key = ProjectKey.derive(b"master", "p")
    listed = [
        Entry("pipe", "other", problem="a named pipe"),
        Entry("b", "file", mode=0o4755, size=1, mtime_ns=5, digest=D),
        Entry("a", "directory", mode=0o1777, size=4096, mtime_ns=6),
        Entry("large", "file", size=5_001, digest=D),
        Entry("/".join("abcdefghi"), "file", size=1, digest=D),
    ]
    stored = storable(listed, key, LIMITS)
    assert [(e.path, e.mode, e.mtime_ns) for e in stored.entries] == [("a", 0o777, 6), ("b", 0o755, 5)]
    assert list(stored.skipped) == ["a/b/c/d/e/f/g/h/i", "large", "pipe"]
    assert stored.skipped["pipe"] == "a named pipe"
    other = storable(listed, ProjectKey.derive(b"master", "q")).entries[1]
    assert stored.entries[1].digest not in (D, other.digest)
    check(stored.entries, TreeLimits())
    with pytest.raises(HostileTree):
        storable([Entry("x", "file", digest=None)], key)


def test_a_tree_above_its_size_keeps_what_fits_and_names_the_rest() -> None:
    listed = [Entry(f"f{n}", "file", size=4_000, digest=D) for n in range(3)]
    stored = storable(listed, ProjectKey.derive(b"master", "p"), LIMITS)
    assert [entry.path for entry in stored.entries] == ["f0", "f1"]
    assert list(stored.skipped) == ["f2"]
    check(stored.entries, LIMITS)


def test_a_manifest_of_format_1_is_still_read() -> None:
    read = parse(
        manifest(["d", "directory", 0o755], ["d/f", "file", 0o644, 3, D], ["l", "symlink", "x"]), LIMITS
    )
    assert [(e.path, e.mtime_ns) for e in read.entries] == [("d", None), ("d/f", None), ("l", None)]
    now = (Entry("d", "directory", mode=0o755, mtime_ns=9), *read.entries[1:])
    assert compare(now, read.entries).empty


@given(trees(), trees())
def test_a_difference_onto_its_base_is_the_whole_tree(
    base: tuple[Entry, ...], tree: tuple[Entry, ...]
) -> None:
    before, after = {entry.path: entry for entry in base}, {entry.path: entry for entry in tree}
    changed = tuple(entry for entry in tree if before.get(entry.path) != entry)
    places = {entry.digest: Location("p", 3, 5) for entry in (*base, *tree) if entry.digest}
    own = Manifest(
        "b1", 7, changed, {entry.digest: places[entry.digest] for entry in changed if entry.digest}
    )
    body = dump(own, base="the key", gone=sorted(before.keys() - after.keys()))
    found = parse_delta(body, TreeLimits())
    assert found.base == "the key"
    whole = found.onto(Manifest("b1", 3, base, places), TreeLimits())
    assert (whole.entries, whole.at_version) == (tree, 7)
    assert whole.tree_digest == tree_digest(tree)


def test_the_digest_of_a_large_tree_is_that_of_its_json() -> None:
    """As it was when it was computed at once: snapshots in the log have it."""
    tree = [Entry(f"d{n:05}", "directory", mode=0o755) for n in range(1203)]
    rows = json.dumps([[e.path, "directory", e.mode] for e in tree], separators=(",", ":"))
    assert tree_digest(tree) == "sha256:" + hashlib.sha256(rows.encode()).hexdigest()
