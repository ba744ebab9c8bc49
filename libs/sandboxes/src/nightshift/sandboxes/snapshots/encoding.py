"""Encodes and decodes manifests, whole or as a difference from another manifest. Pure.

A manifest may come from an attacker. So everything in it is checked before anything is used.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nightshift.sandboxes.errors import HostileTree
from nightshift.sandboxes.port import Entry
from nightshift.sandboxes.snapshots.manifest import Location, Manifest, TreeLimits, check, row

#: Format 2 adds times, hard links, large files and skipped paths to format 1. Format 1 can still be read.
FORMAT = 2
#: Format 3 contains only the differences from the manifest `base`, which is of format 2.
DELTA = 3
#: The rows in one line of an encoded manifest: few enough that decoding a line does not hold up other threads.
_LINE = 500
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Delta:
    """A manifest in its stored form: whole, or as a difference from another manifest.

    `own` has the entries and blobs in this object itself. `base` is the key of the other manifest, or None for a whole
    one. `gone` are the paths of the base that this manifest has not.
    """

    own: Manifest
    base: str | None
    gone: tuple[str, ...] = ()

    def onto(self, base: Manifest, limits: TreeLimits) -> Manifest:
        """Return the whole manifest: `base` with this difference applied. Raises HostileTree when it breaks a rule."""
        removed = set(self.gone)
        entries = {entry.path: entry for entry in base.entries if entry.path not in removed}
        entries.update((entry.path, entry) for entry in self.own.entries)
        whole = replace(
            self.own,
            entries=tuple(sorted(entries.values(), key=lambda entry: entry.path)),
            blobs={**base.blobs, **self.own.blobs},
            pieces={**base.pieces, **self.own.pieces},
        )
        check(whole.entries, limits)
        return whole


def dump(manifest: Manifest, *, base: str | None = None, gone: Sequence[str] = ()) -> bytes:
    """Encode a manifest as lines of canonical JSON, so that equal manifests have equal bytes.

    If `base` is a manifest's key, `manifest` has only the differences from that manifest. `gone` are the paths of the
    base to remove.
    """
    return b"".join(_lines(manifest, base, gone))


def _lines(manifest: Manifest, base: str | None, gone: Sequence[str]) -> Iterator[bytes]:
    head = {"format": FORMAT, "build_id": manifest.build_id, "at_version": manifest.at_version}
    if base is not None:
        head |= {"format": DELTA, "base": base}
    yield _line({**head, "skipped": dict(manifest.skipped), "pieces": dict(manifest.pieces)})
    for paths in _parts(gone):
        yield _line({"gone": paths})
    for part in _parts(manifest.entries):
        yield _line({"entries": [_timed_row(entry) for entry in part]})
    for blobs in _parts(sorted(manifest.blobs)):
        at = manifest.blobs
        yield _line({"blobs": {one: [at[one].pack, at[one].offset, at[one].length] for one in blobs}})


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + _LINE] for start in range(0, len(values), _LINE))


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=True).encode("ascii") + b"\n"


def _timed_row(entry: Entry) -> list[Any]:
    fields = row(entry)
    if entry.link is not None:
        fields = [fields[0], "link", *fields[2:], entry.link]
    return [*fields, entry.mtime_ns]


def parse(data: bytes, limits: TreeLimits) -> Delta:
    """Decode and check a manifest. Raises HostileTree, which names the fault.

    The entries of a difference are checked later together with the base, by `Delta.onto`.
    """
    if len(data) > limits.manifest_bytes:
        raise HostileTree("the manifest is too large")
    try:
        head, *lines = (json.loads(line) for line in data.splitlines())
        if head["format"] not in (1, FORMAT, DELTA):
            raise HostileTree(f"manifest format {head['format']!r} is not known")
        timed, base = head["format"] != 1, str(head["base"]) if head["format"] == DELTA else None
        rows: list[Any] = []
        gone: list[str] = []
        blobs: dict[str, Any] = {}
        for part in lines if timed else [head]:
            if not isinstance(part.get("entries", []), list) or not isinstance(part.get("blobs", {}), dict):
                raise HostileTree("a manifest needs a list of entries and an object of blobs")
            rows += part.get("entries", [])
            blobs |= part.get("blobs", {})
            gone += map(str, part.get("gone", []))
            if len(rows) > limits.entries:
                raise HostileTree(f"more than {limits.entries} entries")
        entries = tuple(_timed_entry(row) if timed else _entry(row) for row in rows)
        if base is None:
            check(entries, limits)
        manifest = Manifest(
            str(head["build_id"]),
            int(head["at_version"]),
            entries,
            {d: _location(d, at) for d, at in blobs.items()},
            {str(one): tuple(map(str, digests)) for one, digests in head.get("pieces", {}).items()},
            {str(path): str(text) for path, text in head.get("skipped", {}).items()},
        )
        return Delta(manifest, base, tuple(gone))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise HostileTree(f"the manifest cannot be read: {type(error).__name__}") from None


def _timed_entry(row: list[Any]) -> Entry:
    *rest, mtime_ns = row
    if mtime_ns is not None and (type(mtime_ns) is not int or abs(mtime_ns) >= 2**63):
        raise HostileTree(f"a malformed time: {repr(row)[:200]}")
    match rest:
        case [str(path), "link", mode, size, digest, str(link)]:
            return replace(_entry([path, "file", mode, size, digest]), mtime_ns=mtime_ns, link=link)
        case _:
            return replace(_entry(rest), mtime_ns=mtime_ns)


def _entry(row: list[Any]) -> Entry:
    match row:
        case [str(path), "symlink", str(target)]:
            return Entry(path, "symlink", target=target)
        case [str(path), "directory", mode]:
            return Entry(path, "directory", mode=_whole(mode, f"{path!r}: mode"))
        case [str(path), "file", mode, size, str(digest)] if _DIGEST.fullmatch(digest):
            mode, size = _whole(mode, f"{path!r}: mode"), _whole(size, f"{path!r}: size")
            return Entry(path, "file", mode=mode, size=size, digest=digest)
        case _:
            raise HostileTree(f"a malformed entry: {repr(row)[:200]}")


def _location(digest: str, at: list[Any]) -> Location:
    match at:
        case [str(pack), offset, length] if _DIGEST.fullmatch(digest):
            return Location(pack, _whole(offset, "offset"), _whole(length, "length"))
        case _:
            raise HostileTree("a malformed location of a blob")


def _whole(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise HostileTree(f"{what} is not a whole number in range")
    return value
