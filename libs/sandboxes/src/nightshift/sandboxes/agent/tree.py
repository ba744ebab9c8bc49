"""The whole workspace as a tree: list, export, import, remove. One entry that fails never stops the others.

What cannot be read or created is reported with its reason, in the place of the entry.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

from .confined_paths import READ, Root
from .digest_cache import DigestCache
from .held_directories import HeldDirectories, reason
from .wire import CHUNK, END, Reader, Refusal, file_chunks, frame, json_frame, read_chunks, read_json

#: A deeper tree would need more open directories than a process may have.
MAX_DEPTH = 200
#: The most refused entries that an answer names.
_NAMED = 1_000
#: The entries in one frame of a listing.
_ROWS = 200
_ZEROS = bytes(CHUNK)
_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def list_tree(root: Root, digests: DigestCache, exclude: list[str], limit: int) -> Iterator[dict[str, Any]]:
    """Yields an entry for each name, parents first. `exclude` has names or glob patterns of directories to leave out.

    An entry with a `problem` cannot be exported; so can what is below a directory with one.
    """
    links: dict[tuple[int, int], str] = {}
    directories, count = HeldDirectories(root), 0
    try:
        todo = [""]
        while todo:
            folder = todo.pop()
            prefix = folder + "/" if folder else ""
            try:
                handle = directories.enter(folder)
                names = sorted(os.listdir(handle))
            except FileNotFoundError:
                continue
            except OSError as error:
                yield _problem(folder, f"its content: {reason(error)}")
                continue
            below = []
            for name in names:
                entry = _describe(prefix + name, handle, name, exclude=exclude, links=links, digests=digests)
                if entry is None:
                    continue
                count += 1
                if count > limit:
                    yield _problem(prefix + name, f"more than {limit} entries: this one and all after it")
                    return
                yield entry
                if entry["kind"] == "directory" and prefix.count("/") + 1 < MAX_DEPTH:
                    below.append(prefix + name)
                elif entry["kind"] == "directory":
                    yield _problem(prefix + name, f"its content: deeper than {MAX_DEPTH} directories")
            todo.extend(reversed(below))
        digests.save()
    finally:
        directories.finish()


def rows(entries: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Yields the entries as JSON lists, each small enough to decode at once."""
    parts = iter(lambda: list(islice(entries, _ROWS)), [])
    return (json.dumps(part, separators=(",", ":")).encode("ascii") for part in parts)


def _problem(path: str, text: str) -> dict[str, Any]:
    return {"path": path or ".", "kind": "other", "problem": text}


def _describe(
    path: str,
    parent: int,
    name: str,
    *,
    exclude: list[str],
    links: dict[tuple[int, int], str],
    digests: DigestCache,
) -> dict[str, Any] | None:
    """The entry of a name. Returns None when it is excluded or was removed meanwhile."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        entry = {"path": path, "mode": stat.S_IMODE(found.st_mode), "mtime_ns": found.st_mtime_ns}
        if stat.S_ISDIR(found.st_mode):
            excluded = any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude)
            return None if excluded else {**entry, "kind": "directory"}
        if stat.S_ISLNK(found.st_mode):
            return {**entry, "kind": "symlink", "target": os.readlink(name, dir_fd=parent)}
        if not stat.S_ISREG(found.st_mode):
            return _problem(path, _SPECIAL.get(stat.S_IFMT(found.st_mode), "no file"))
        digest, size = digests.find(path, found), found.st_size
        if digest is None:
            digest, size = _digest(parent, name)
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
        return _problem(path, reason(error))
    return entry


def _open_file(parent: int, name: str) -> BinaryIO:
    """Open a regular file. Grants its owner read permission for the moment of the open when it is missing."""
    try:
        handle = os.open(name, READ, dir_fd=parent)
    except PermissionError:
        place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            itself, mode = f"/proc/self/fd/{place}", stat.S_IMODE(os.fstat(place).st_mode)
            os.chmod(itself, mode | stat.S_IRUSR)
            try:
                handle = os.open(name, READ, dir_fd=parent)
            finally:
                os.chmod(itself, mode)
        finally:
            os.close(place)
    file = os.fdopen(handle, "rb", buffering=0)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise Refusal("invalid", "is not a regular file")
    return file


def _digest(parent: int, name: str) -> tuple[str, int]:
    """Returns the hex SHA-256 and the size in bytes."""
    with _open_file(parent, name) as file:
        sha, size = hashlib.sha256(), 0
        for chunk in iter(lambda: file.read(CHUNK), b""):
            sha.update(chunk)
            size += len(chunk)
        return sha.hexdigest(), size


def export(root: Root, paths: list[str], offset: int, limit: int) -> Iterator[bytes]:
    """Yields frames: for each existing file an entry, its chunks and an end. Begins at `offset` of the first file.

    The last frame is an empty object, or the index of a path and the offset to go on from, when `limit` bytes were
    sent. A file that cannot be read is an entry with a `problem` and no chunks. A file that grows is cut at the size
    that it had when it was opened.
    """
    directories, after = HeldDirectories(root), {}
    try:
        for index, path in enumerate(paths):
            try:
                file = _open_file(*directories.parent(path))
            except FileNotFoundError:
                continue
            except (OSError, Refusal) as error:
                yield json_frame(_problem(path, reason(error))) + END
                continue
            with file:
                found = os.fstat(file.fileno())
                mode, size = stat.S_IMODE(found.st_mode), found.st_size
                entry = {"path": path, "kind": "file", "mode": mode, "size": size}
                yield json_frame({**entry, "mtime_ns": found.st_mtime_ns})
                file.seek(offset if index == 0 else 0)
                sent = 0
                for chunk in file_chunks(file, min(size - file.tell(), limit)):
                    sent += len(chunk)
                    yield frame(chunk)
                yield END
                limit -= sent
                if limit <= 0:
                    after = {"next": index, "offset": file.tell()}
                    break
    finally:
        directories.finish()
    yield json_frame(after)


def import_(root: Root, body: Reader) -> dict[str, Any]:
    """Create the files, directories and symlinks that the stream describes.

    Returns how many, and path and reason of each that could not be created. Never follows a symlink. Directory modes
    and times are set last, so that a read-only directory can be filled.
    """
    directories, count = HeldDirectories(root, writing=True), 0
    refused: list[tuple[str, str]] = []
    try:
        for entry in iter(lambda: read_json(body), {}):
            chunks = read_chunks(body)
            try:
                _import_one(directories, entry, chunks)
                count += 1
            except (OSError, Refusal, ValueError, OverflowError) as error:
                refused.append((entry["path"], reason(error)))
            for _ in chunks:  # a refused entry's content
                pass
    finally:
        refused += directories.finish()
    return {"count": count, "refused": refused[:_NAMED]}


def _import_one(directories: HeldDirectories, entry: dict[str, Any], chunks: Iterator[bytes]) -> None:
    path, kind, mode, mtime_ns = entry["path"], entry["kind"], entry["mode"] & 0o777, entry["mtime_ns"]
    if entry.get("link") is not None:
        _link(directories, entry["link"], path)
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
        _write(parent, name, entry, chunks)
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
    """Make `path` another name of the file `first`."""
    above, source = directories.parent(first)
    held = os.dup(above)
    try:
        parent, name = directories.parent(path)
        _unlink(name, parent)
        os.link(source, name, src_dir_fd=held, dst_dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(held)


def _write(parent: int, name: str, entry: dict[str, Any], chunks: Iterator[bytes]) -> None:
    """Write a new file beside the old one, then rename it."""
    new = f".nightshift-{os.getpid()}"
    _unlink(new, parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(new, flags, 0o600, dir_fd=parent)
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            _fill(file, chunks, entry["size"])
            os.fchmod(handle, entry["mode"] & 0o777)
            if entry["mtime_ns"] is not None:
                os.utime(handle, ns=(entry["mtime_ns"], entry["mtime_ns"]))
        os.rename(new, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=parent)
        raise


def _fill(file: Any, chunks: Iterator[bytes], size: int) -> None:
    """Write `size` bytes; leaves holes for chunks of zeros. Raises Refusal when the chunks are more or fewer bytes."""
    written = 0
    for chunk in chunks:
        if chunk == _ZEROS:
            file.seek(CHUNK, os.SEEK_CUR)
        else:
            left = memoryview(chunk)
            while left:
                left = left[file.write(left) :]
        written += len(chunk)
    if written != size:
        raise Refusal("invalid", "its content is not whole in the snapshot")
    file.truncate(size)


def remove(root: Root, path: str) -> None:
    """Remove a file, a symlink or a directory with its content. Does nothing when it does not exist."""
    directories = HeldDirectories(root, writing=True)
    try:
        parent, name = directories.parent(path)
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            return
        for folder in reversed(_emptied(directories, path)):
            parent, name = directories.parent(folder)
            os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        pass
    finally:
        directories.finish()


def _emptied(directories: HeldDirectories, path: str) -> list[str]:
    """Remove all but the directories below `path`. Returns these, parents first."""
    todo, found = [path], []
    while todo:
        folder = todo.pop()
        found.append(folder)
        handle = directories.enter(folder)
        for name in os.listdir(handle):
            if stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
                todo.append(f"{folder}/{name}")
            else:
                os.unlink(name, dir_fd=handle)
    return found
