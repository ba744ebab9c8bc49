"""Rows describe the paths of a stage: what stat says about each path, and the digest of each file.

A row is a list: kind, mode, size, mtime_ns, ctime_ns, inode, a symlink's target or a hard link's first path, problem,
digest, settled. The values before `problem` come from stat. `settled` means that any later write changes the stat, so
that the digest may be reused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .confined_paths import Root
from .digest_cache import DigestCache
from .walk import Walk, special

if TYPE_CHECKING:
    Row = list[Any]
else:  # for Python 3.8
    Row = list

KIND, MODE, SIZE, MTIME, CTIME, INODE, REF, PROBLEM, DIGEST, SETTLED = range(10)
#: The parts of a row that come from the stat.
STAT = 8


def walk_rows(
    root: Root, exclude: list[str], limit: int, known: list[dict[str, Row]], digests: DigestCache | None
) -> dict[str, Row]:
    """Return the rows of the workspace as it is now, by path. After `limit` paths, one row with a problem stands for
    all further paths.

    A file whose stat is the same in one of the trees `known`, or in `digests`, gets its digest from there.
    """
    found: dict[str, Row] = {}
    links: dict[tuple[int, int], str] = {}
    walk = Walk(root, exclude, limit)
    for path, parent, name, status in walk:
        kind, link = stat.S_IFMT(status.st_mode), None
        if kind == stat.S_IFREG:
            if status.st_nlink > 1:
                first = links.setdefault((status.st_dev, status.st_ino), path)
                link = first if first != path else None
            row = _file(path, status, link, known)
            if row[DIGEST] is None and digests is not None:
                row[DIGEST] = digests.find(path, status)
                row[SETTLED] = row[DIGEST] is not None
        elif kind == stat.S_IFDIR:
            mode = stat.S_IMODE(status.st_mode)
            row = ["directory", mode, 0, status.st_mtime_ns, 0, 0, None, None, None, True]
        elif kind == stat.S_IFLNK:
            try:
                target = os.readlink(name, dir_fd=parent)
            except OSError:
                continue
            row = ["symlink", 0, 0, status.st_mtime_ns, 0, 0, target, None, None, True]
        else:
            row = _unreadable(special(status.st_mode))
        found[path] = row
    for path, text in walk.problems:
        # The content of this directory is unknown. The problem gets a path of its own, beside that of the directory.
        found[f"{path}/" if path in found else path or "."] = _unreadable(text)
    return found


def _unreadable(problem: str) -> Row:
    return ["other", 0, 0, 0, 0, 0, None, problem, None, True]


def _file(path: str, found: os.stat_result, link: str | None, known: list[dict[str, Row]]) -> Row:
    """Return the row of a file: a row in one of the trees `known` that still fits its stat, or a new one without a
    digest.
    """
    for rows in known:
        old = rows.get(path)
        if (
            old is not None
            and old[CTIME]
            == found.st_ctime_ns  # tells most of the changed files; the rest is compared as it comes
            and old[INODE] == found.st_ino
            and old[SIZE] == found.st_size
            and old[MTIME] == found.st_mtime_ns
            and old[MODE] == found.st_mode & 0o7777
            and old[REF] == link
            and old[KIND] == "file"
            and old[PROBLEM] is None
            and old[SETTLED]
        ):
            return old
    return ["file", *stat_key(found), link, None, None, False]


def stat_key(found: os.stat_result) -> list[Any]:
    """Return the values of a stat that a row contains: [mode, size, mtime_ns, ctime_ns, inode]."""
    mode = stat.S_IMODE(found.st_mode)
    return [mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def stat_row(found: os.stat_result) -> Row:
    """Return the row of a file with this stat, without a link and a digest."""
    return ["file", *stat_key(found), None, None, None, False]


def same_content(one: Row, other: Row) -> bool:
    """Return whether two rows of a file have equal stats."""
    return _stat(one) == _stat(other)


def _stat(row: Row) -> Row:
    """Return the stat of a row.

    For a file without read permission it omits the ctime, because reading changes the ctime.
    """
    part = row[: INODE + 1]
    if row[KIND] == "file" and not row[MODE] & stat.S_IRUSR:
        part[CTIME] = 0
    return part


def same_stats(one: dict[str, Row], other: dict[str, Row]) -> bool:
    """Return whether the stats of two trees are equal."""
    return one.keys() == other.keys() and all(
        (_stat(row), row[REF]) == (_stat(other[path]), other[path][REF]) for path, row in one.items()
    )


def shown(row: Row | None) -> Row | None:
    """Return those values of a row that a snapshot contains. None stays None."""
    return None if row is None else [*row[:CTIME], row[REF], row[PROBLEM], row[DIGEST]]


def visible(changed: dict[str, Row], rows: dict[str, Row]) -> bool:
    """Return whether a snapshot of the tree `rows` would differ after these changes."""
    return any(shown(row) != shown(rows.get(path)) for path, row in changed.items())


def difference(before: dict[str, Row], after: dict[str, Row]) -> tuple[dict[str, Row], list[str]]:
    """Return the changes that turn the tree `before` into `after`: the rows to set and the paths to remove."""
    changed = {}
    for path, row in after.items():
        old = before.get(path)
        if old is not row and old != row:
            changed[path] = row
    return changed, [path for path in before if path not in after]


def applied(rows: dict[str, Row], changed: dict[str, Row], gone: Iterable[str]) -> dict[str, Row]:
    """Return the tree `rows` without the paths `gone`, and with the rows `changed` set."""
    left = dict(rows)
    for path in gone:
        left.pop(path, None)
    left.update(changed)
    return left


def entry(path: str, row: Row) -> dict[str, Any]:
    """Return the row of `path` as an entry of a listing: a dict with named fields."""
    kind, mode, size, mtime_ns, _, _, ref, problem, digest, _ = row
    if problem is not None:
        return {"path": path.rstrip("/"), "kind": "other", "problem": problem}
    found = {"path": path, "kind": kind, "mode": mode, "size": size, "mtime_ns": mtime_ns, "digest": digest}
    return {**found, "target" if kind == "symlink" else "link": ref}
