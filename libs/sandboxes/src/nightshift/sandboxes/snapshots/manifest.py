"""The manifest of a snapshot: the list of a workspace's entries, with its rules and its digest. Pure."""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nightshift.sandboxes.errors import HostileTree
from nightshift.sandboxes.port import Entry

#: The path of the workspace's own entry. Older manifests have none.
ROOT = "."
#: How many entries are hashed at once: few enough that other threads are not held up.
_ROWS = 500
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """The limits of a workspace in a snapshot. Bytes are counted before compression."""

    entries: int = 200_000
    total_bytes: int = 32 * 1024**3
    file_bytes: int = 8 * 1024**3
    depth: int = 201
    path_bytes: int = 4096
    manifest_bytes: int = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class Location:
    """Where a blob is: `length` compressed bytes, from `offset` on, in the object `pack`."""

    pack: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The entries of a tree, sorted by path, with the location of each content. All digests come from ProjectKey.

    - `pieces`: for the digest of each large file, the digests of its blobs in order.
    - `skipped`: the paths of the workspace that the snapshot does not contain, with the reasons.
    """

    build_id: str
    at_version: int
    entries: tuple[Entry, ...]
    blobs: Mapping[str, Location]
    pieces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def tree_digest(self) -> str:
        """`sha256:<hex>` over the entries alone. So equal trees have equal digests, wherever their contents are
        stored.
        """
        return tree_digest(self.entries)

    @property
    def files(self) -> int:
        return sum(entry.kind == "file" for entry in self.entries)

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.entries)


@dataclass(frozen=True, slots=True)
class ProjectKey:
    """Turns the SHA-256 of a content into a digest for one project. Other projects cannot compute it without the
    key.
    """

    project_id: str
    key: bytes

    @classmethod
    def derive(cls, master: bytes, project_id: str) -> "ProjectKey":
        """Derive the key of the project from the key of the installation."""
        return cls(project_id, hmac.digest(master, b"nightshift/project/" + project_id.encode(), "sha256"))

    def digest(self, sha256_hex: str) -> str:
        return hmac.digest(self.key, bytes.fromhex(sha256_hex), "sha256").hex()

    def of(self, content: bytes) -> str:
        return self.digest(hashlib.sha256(content).hexdigest())


@dataclass(frozen=True, slots=True)
class Listing:
    """The entries of a sandbox's listing that a snapshot contains, sorted by path.

    `skipped` maps the paths that the snapshot leaves out to the reasons.
    """

    entries: tuple[Entry, ...]
    skipped: Mapping[str, str]


def storable(listed: Iterable[Entry], key: ProjectKey, limits: TreeLimits | None = None) -> Listing:
    """Turn a sandbox's listing into entries of a manifest. Their digests are those of the project's key.

    Leaves out entries that cannot be exported or that exceed a limit, and returns them as `skipped`.
    """
    limits, total = limits or TreeLimits(), 0
    entries: dict[str, Entry] = {}
    skipped: dict[str, str] = {}
    for entry in sorted(listed, key=lambda entry: entry.path):
        problem = entry.problem or _excess(entry, limits)
        above = entry.path.rpartition("/")[0]
        if problem is None and total + entry.size > limits.total_bytes:
            problem = f"the workspace is larger than {limits.total_bytes} bytes"
        if problem is None and (above in skipped or entry.link in skipped) and above not in entries:
            problem = skipped.get(above) or skipped.get(entry.link or "")
        if problem is not None or entry.kind == "other":
            skipped[entry.path] = problem or "no file, directory or symlink"
            continue
        entries[entry.path] = _kept(entry, key)
        total += 0 if entry.link else entry.size
    return Listing(tuple(entries.values()), skipped)


def _kept(entry: Entry, key: ProjectKey) -> Entry:
    if entry.kind == "file":
        if entry.digest is None or not _DIGEST.fullmatch(entry.digest):
            raise HostileTree("a listed file has no digest")
        return replace(entry, digest=key.digest(entry.digest), mode=entry.mode & 0o777)
    mode = entry.mode & 0o777 if entry.kind == "directory" else 0
    return replace(entry, size=0, mode=mode, digest=None)


def _excess(entry: Entry, limits: TreeLimits) -> str | None:
    """Return why this entry by itself cannot be in a snapshot, or None when it can."""
    if entry.size > limits.file_bytes:
        return f"larger than {limits.file_bytes} bytes"
    try:
        _check_path(entry.path, limits)
    except HostileTree as error:
        return str(error).rpartition("' ")[2]
    return None


def tree_digest(entries: Sequence[Entry]) -> str:
    """Return `sha256:<hex>` over the JSON list of the entries in the form of `row`."""
    digest = hashlib.sha256(b"[")
    for start in range(0, len(entries), _ROWS):
        rows = [row(entry) for entry in entries[start : start + _ROWS]]
        text = json.dumps(rows, separators=(",", ":"), ensure_ascii=True)[1:-1]
        digest.update((text if start == 0 else "," + text).encode("ascii"))
    digest.update(b"]")
    return "sha256:" + digest.hexdigest()


def row(entry: Entry) -> list[Any]:
    """Return an entry as a list of values, without its times and links.

    Manifests and the digest of a tree use this form.
    """
    match entry.kind:
        case "file":
            return [entry.path, "file", entry.mode, entry.size, entry.digest]
        case "directory":
            return [entry.path, "directory", entry.mode]
        case _:
            return [entry.path, "symlink", entry.target]


def check(entries: Sequence[Entry], limits: TreeLimits) -> None:
    """Raise HostileTree when a path could lead out of the root, or when the tree exceeds a limit."""
    if len(entries) > limits.entries:
        raise HostileTree(f"more than {limits.entries} entries")
    total = 0
    kinds: dict[str, str] = {}
    for entry in entries:
        _check_path(entry.path, limits)
        if entry.path in kinds:
            raise HostileTree(f"{entry.path!r} occurs twice")
        kinds[entry.path] = entry.kind
        if entry.kind == "other" or (entry.path == ROOT and entry.kind != "directory"):
            raise HostileTree(f"{entry.path!r} is not a file, directory or symlink")
        if entry.mode & ~0o777:
            raise HostileTree(f"{entry.path!r}: mode {entry.mode:o}")
        if entry.size > limits.file_bytes:
            raise HostileTree(f"{entry.path!r} is larger than {limits.file_bytes} bytes")
        target = entry.target or ""
        if entry.kind == "symlink" and (
            not target or "\0" in target or len(_bytes(target)) >= limits.path_bytes
        ):
            raise HostileTree(f"{entry.path!r}: malformed symlink")
        total += 0 if entry.link else entry.size
        if total > limits.total_bytes:
            raise HostileTree(f"more than {limits.total_bytes} bytes")
    by_path = {entry.path: entry for entry in entries if entry.link is None}
    for entry in entries:
        first = by_path.get(entry.link) if entry.link is not None else entry
        if first is None or (first.kind, first.digest) != (entry.kind, entry.digest):
            raise HostileTree(f"{entry.path!r}: malformed hard link")
    for path in kinds:
        parent = path.rpartition("/")[0]
        if parent and kinds.get(parent) != "directory":
            raise HostileTree(f"{path!r} is below {parent!r}, which is not a directory here")


def _bytes(path: str) -> bytes:
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise HostileTree(f"{path!r} is not a file name") from None


def _check_path(path: str, limits: TreeLimits) -> None:
    """Raise HostileTree unless the path is ROOT (`.`) or leads to something below the workspace."""
    if path == ROOT:
        return
    if not path or path.startswith("/") or "\0" in path:
        raise HostileTree(f"{path[:200]!r} is not a relative path")
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise HostileTree(f"{path[:200]!r} has an empty, `.` or `..` part")
    if len(parts) > limits.depth or len(_bytes(path)) >= limits.path_bytes:
        raise HostileTree(f"{path[:200]!r} is too deep or too long")
    if any(len(_bytes(part)) > 255 for part in parts):
        raise HostileTree(f"{path[:200]!r} has a part over 255 bytes")
