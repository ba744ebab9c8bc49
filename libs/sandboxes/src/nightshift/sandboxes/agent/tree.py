"""Lists and removes whole trees of files. One failing entry never stops the others.

An entry that cannot be read is listed with the reason as its `problem`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from itertools import islice
from typing import Any

from .confined_paths import DIRECTORY, Root
from .digest_cache import DigestCache
from .held_directories import HeldDirectories, reason
from .walk import Walk, digest_of, problem, special
from .wire import Refusal

#: How many entries a frame of a listing contains.
_ROWS = 200
#: How many nested directories a removal keeps open.
_OPEN = 64


def list_tree(root: Root, digests: DigestCache, exclude: list[str], limit: int) -> Iterator[dict[str, Any]]:
    """Yield an entry for each path of the workspace, parents first, at most `limit`. `exclude` has patterns (see
    `Exclude`).

    An entry with a `problem` cannot be exported, and neither can anything below it.
    """
    links: dict[tuple[int, int], str] = {}
    walk = Walk(root, exclude, limit)
    for path, parent, name, found in walk:
        entry = _describe(path, (parent, name), found, links, digests)
        if entry is not None:
            yield entry
    for path, text in walk.problems:
        yield problem(path, text)
    digests.save()


def rows(entries: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Yield the entries as JSON lists that are small enough to decode at once."""
    parts = iter(lambda: list(islice(entries, _ROWS)), [])
    return (json.dumps(part, separators=(",", ":")).encode("ascii") for part in parts)


def _describe(
    path: str,
    place: tuple[int, str],
    found: os.stat_result,
    links: dict[tuple[int, int], str],
    digests: DigestCache,
) -> dict[str, Any] | None:
    """Return the entry of a path, or None when the path was removed meanwhile.

    `place` is its directory's handle and its name. `links` has the first path of each file, by device and inode.
    """
    parent, name = place
    try:
        entry = {"path": path, "mode": stat.S_IMODE(found.st_mode), "mtime_ns": found.st_mtime_ns}
        if stat.S_ISDIR(found.st_mode):
            return {**entry, "kind": "directory"}
        if stat.S_ISLNK(found.st_mode):
            return {**entry, "kind": "symlink", "target": os.readlink(name, dir_fd=parent)}
        if not stat.S_ISREG(found.st_mode):
            return problem(path, special(found.st_mode))
        digest, size = digests.find(path, found), found.st_size
        if digest is None:
            digest, size = digest_of(parent, name)
            after = os.stat(name, dir_fd=parent, follow_symlinks=False)
            digests.remember(path, found, after, digest)
        entry.update(kind="file", size=size, digest=digest)
        if found.st_nlink > 1:
            first = links.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                entry["link"] = first
    except FileNotFoundError:
        return None
    except (OSError, Refusal) as error:
        return problem(path, reason(error))
    return entry


def remove(root: Root, path: str) -> None:
    """Remove a file, a symlink, or a directory with its content. Does nothing when the path does not exist."""
    directories = HeldDirectories(root, writing=True)
    try:
        parent, name = directories.parent(path)
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            _remove_tree(parent, name)
        else:
            os.unlink(name, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):
        pass
    finally:
        directories.finish()


def _remove_tree(parent: int, name: str) -> None:
    """Remove a directory.

    Directories that lie deep below are first moved directly into it, so that few handles are open at the same time.
    """
    top = _enter(parent, name)
    try:
        moved = _remove_content(top, top, 0)
        while moved:
            folder = moved.pop()
            handle = _enter(top, folder)
            try:
                moved += _remove_content(handle, top, 0)
            finally:
                os.close(handle)
            os.rmdir(folder, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _remove_content(handle: int, top: int, depth: int) -> list[str]:
    """Remove the content of a directory. Calls itself for subdirectories; `depth` is the number of nested calls.

    Moves directories that lie too deep into `top`, and returns their new names there.
    """
    moved: list[str] = []
    for inner in _empty(handle):
        below = _enter(handle, inner)  # also makes it writable; otherwise it could not be moved
        try:
            if depth < _OPEN:
                moved += _remove_content(below, top, depth + 1)
            else:
                moved.append(f".nightshift-{secrets.token_hex(8)}")
                os.rename(inner, moved[-1], src_dir_fd=handle, dst_dir_fd=top)
        finally:
            os.close(below)
        if depth < _OPEN:
            os.rmdir(inner, dir_fd=handle)
    return moved


def _enter(parent: int, name: str) -> int:
    """Open a directory that will be removed, and give its owner access to it."""
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        with contextlib.suppress(PermissionError):
            os.chmod(f"/proc/self/fd/{place}", 0o700)
        return os.open(".", DIRECTORY, dir_fd=place)
    finally:
        os.close(place)


def _empty(handle: int) -> list[str]:
    """Remove all entries of a directory except subdirectories, and return the names of the subdirectories."""
    with os.scandir(handle) as found:
        entries = list(found)
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=handle)
    return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
