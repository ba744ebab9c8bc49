"""Creates files, directories and symlinks, with modes and times, from a stream of entries."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Any

from .confined_paths import Root
from .digest_cache import DigestCache
from .held_directories import HOME, HeldDirectories, reason
from .wire import CHUNK, Reader, Refusal, read_chunks, read_json

#: The most refused entries that an answer lists.
_NAMED = 1_000
_ZEROS = bytes(CHUNK)
#: The permission bits that the agent's umask removes from a new file.
_UMASK = 0o077
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def import_(root: Root, body: Reader, digests: DigestCache) -> dict[str, Any]:
    """Create the files, directories and symlinks of the stream `body`. Never follows a symlink.

    Returns how many it created (`count`), and the path and the reason for each that it could not create (`refused`).
    Sets modes and times of directories last, so that it can fill a read-only directory. Adds the digests of new files
    to `digests`.
    """
    directories, count = HeldDirectories(root, writing=True), 0
    refused: list[tuple[str, str]] = []
    digests.keep_all()
    try:
        for entry in iter(lambda: read_json(body), {}):
            chunks = read_chunks(body)
            try:
                _import_one(directories, entry, chunks, digests)
                count += 1
            except (OSError, Refusal, ValueError, OverflowError) as error:
                refused.append((entry["path"], reason(error)))
            for _ in chunks:  # a refused entry's content
                pass
    finally:
        refused += directories.finish()
        digests.save()
    return {"count": count, "refused": refused[:_NAMED]}


def _import_one(
    directories: HeldDirectories, entry: dict[str, Any], chunks: Iterator[bytes], digests: DigestCache
) -> None:
    path, kind, mode, mtime_ns = entry["path"], entry["kind"], entry["mode"] & 0o777, entry["mtime_ns"]
    if entry.get("link") is not None:
        _link(directories, entry["link"], path)
        return
    if path == ".":
        directories.final[""] = (mode, mtime_ns)
        return
    if path == HOME and directories.has_home:
        return
    parent, name = directories.parent(path)
    if kind == "file" and entry["keep"]:
        place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if stat.S_ISREG(os.fstat(place).st_mode):
                os.chmod(f"/proc/self/fd/{place}", mode)
                _set_time(name, parent, mtime_ns)
        finally:
            os.close(place)
    elif kind == "file":
        digests.trust(path, *_create(parent, name, entry, chunks))
    elif kind == "directory":
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        directories.enter(path)  # must be a directory
        directories.final[path] = (mode, mtime_ns)
    elif kind == "symlink":
        _unlink(name, parent)
        os.symlink(entry["target"], name, dir_fd=parent)
        _set_time(name, parent, mtime_ns)
    else:
        raise Refusal("invalid", f"an entry of kind {kind!r}")


def _unlink(name: str, parent: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def _set_time(name: str, parent: int, mtime_ns: int | None) -> None:
    if mtime_ns is not None:
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)


def _link(directories: HeldDirectories, first: str, path: str) -> None:
    """Make `path` another name (hard link) of the existing file `first`. Replaces a file that exists at `path`."""
    above, source = directories.parent(first)
    held = os.dup(above)
    try:
        parent, name = directories.parent(path)
        _unlink(name, parent)
        os.link(source, name, src_dir_fd=held, dst_dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(held)


def _create(
    parent: int, name: str, entry: dict[str, Any], chunks: Iterator[bytes]
) -> tuple[os.stat_result, str]:
    """Create a file, or replace an existing one atomically. Returns its stat and its SHA-256 in hex."""
    mode, new = entry["mode"] & 0o777, name
    try:
        handle = os.open(name, _NEW, mode, dir_fd=parent)
    except FileExistsError:
        new = f".nightshift-{os.getpid()}"
        _unlink(new, parent)
        handle = os.open(new, _NEW, mode, dir_fd=parent)
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            digest = _fill(file, chunks, entry["size"])
            if mode & _UMASK:
                os.fchmod(handle, mode)
            if entry["mtime_ns"] is not None:
                os.utime(handle, ns=(entry["mtime_ns"], entry["mtime_ns"]))
            if new != name:
                os.rename(new, name, src_dir_fd=parent, dst_dir_fd=parent)
            return os.fstat(handle), digest
    except BaseException:
        _unlink(new, parent)
        raise


def _fill(file: Any, chunks: Iterator[bytes], size: int) -> str:
    """Write the chunks to the file. A chunk of zeros becomes a hole. Returns the SHA-256 of the content in hex.

    Raises Refusal when the chunks have more or fewer than `size` bytes together.
    """
    written, sha = 0, hashlib.sha256()
    for chunk in chunks:
        sha.update(chunk)
        if chunk == _ZEROS:
            file.seek(CHUNK, os.SEEK_CUR)
        else:
            left = memoryview(chunk)
            while left:
                left = left[file.write(left) :]
        written += len(chunk)
    if written != size:
        raise Refusal("invalid", "its content is not whole in the snapshot")
    if written >= CHUNK:  # the end may be a hole
        file.truncate(size)
    return sha.hexdigest()
