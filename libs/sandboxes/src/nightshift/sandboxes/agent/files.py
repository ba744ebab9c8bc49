"""File operations in the workspace: stat, read and write. `confined_paths` opens the paths."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from .confined_paths import Root, problem, require_regular
from .wire import Refusal, file_chunks

_MISSING = ("not_found", "not_directory")


def describe(path: str, parent: int, name: str) -> dict[str, Any]:
    """Return what stat says about `name` in the directory `parent` (kind, mode, size, …), with `path` as its path.

    Does not follow a symlink. Raises OSError when the name does not exist.
    """
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    entry: dict[str, Any] = {
        "path": path,
        "kind": "other",
        "mode": stat.S_IMODE(found.st_mode),
        "size": 0,
        "mtime_ns": found.st_mtime_ns,
    }
    if stat.S_ISREG(found.st_mode):
        entry.update(kind="file", size=found.st_size)
    elif stat.S_ISDIR(found.st_mode):
        entry["kind"] = "directory"
    elif stat.S_ISLNK(found.st_mode):
        entry.update(kind="symlink", target=os.readlink(name, dir_fd=parent))
    return entry


def stat_path(root: Root, path: str) -> dict[str, Any] | None:
    try:
        with root.parent(path) as (parent, name):
            return describe(path, parent, name)
    except Refusal as refusal:
        if refusal.kind in _MISSING:
            return None
        raise


def read(root: Root, path: str, offset: int, limit: int, anywhere: bool) -> Iterator[bytes]:
    with _regular(_open_anywhere(root, path) if anywhere else root.open(path, os.O_RDONLY), path) as file:
        file.seek(offset)
        yield from file_chunks(file, limit)


def _open_anywhere(root: Root, path: str) -> int:
    """Open a file for reading, inside or outside the workspace.

    Raises Refusal when a path inside the workspace leads out of it by a symlink: the caller must name the target's own
    path. Also raises Refusal for a process's files in /proc, because /proc/self would be the agent program.
    """
    outside = os.path.normpath(os.path.join(root.path, path))
    if outside == root.path or outside.startswith(root.path + "/") or "\0" in path:
        return root.open(path, os.O_RDONLY)
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        handle = os.open(outside, flags)
    except OSError as error:
        raise problem(error, path) from None
    if re.match("/proc/[0-9]|/memfd:", os.readlink(f"/proc/self/fd/{handle}")):
        os.close(handle)
        raise Refusal("outside", f"{path}: files of a process are read with bash")
    return handle


def _regular(handle: int, path: str) -> BinaryIO:
    """Wrap the handle of a regular file. Closes the handle and raises Refusal for any other kind."""
    try:
        require_regular(handle, path)
    except Refusal:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def write(root: Root, path: str, body: Iterator[bytes], mode: int | None) -> None:
    """Replace a file atomically: write a new file beside it, then rename it. If `mode` is None, keeps the file's
    mode.
    """
    with root.parent(path, make=True) as (parent, name):
        _replace(parent, name, body, _mode_of(parent, name, path) if mode is None else mode)


def _mode_of(parent: int, name: str, path: str) -> int:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return 0o644
    if stat.S_ISDIR(found.st_mode):
        raise Refusal("is_directory", f"{path}: is a directory")
    return stat.S_IMODE(found.st_mode) & 0o777 if stat.S_ISREG(found.st_mode) else 0o644


def _replace(parent: int, name: str, body: Iterator[bytes], mode: int) -> None:
    # Without `name`, because that may already have the greatest length of a name.
    new = f".nightshift-{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new, dir_fd=parent)
    handle = os.open(new, flags, 0o600, dir_fd=parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(body)
            os.fchmod(file.fileno(), mode)
        os.rename(new, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=parent)
        raise
