"""Walks the workspace and opens its files for reading, without following symlinks."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from .confined_paths import READ, Root
from .held_directories import HOME, HeldDirectories, reason
from .wire import CHUNK, Refusal

#: Names in the home that are not listed below HOME: the workspace, which is listed itself, and the agent's own files.
_NOT_OF_THE_HOME = ("workspace", ".nightshift")
#: The stat of HOME. The driver sets the home's own mode and times, so snapshots do not keep them.
_HOME_STAT = os.stat_result([stat.S_IFDIR | 0o755, *[0] * 9])
#: Snapshots contain no directories deeper than this.
MAX_DEPTH = 200
_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Exclude:
    """Patterns of paths that a walk leaves out, similar to .gitignore: the last matching pattern decides.

    `!` at the start keeps a path that an earlier pattern excludes. `/` at the end matches only directories. A pattern
    with another `/` matches the whole path, relative to the workspace. A star matches any characters.
    """

    def __init__(self, patterns: list[str]) -> None:
        self._rules = [_rule(pattern) for pattern in patterns if pattern.strip("!/")]
        #: Whether any pattern applies to files. If not, files need not be compared.
        self.files = any(not directories for _, directories, _, _ in self._rules)

    def __call__(self, path: str, name: str, directory: bool) -> bool:
        for keep, directories, anchored, matches in reversed(self._rules):
            if (directory or not directories) and matches(path if anchored else name):
                return not keep
        return False


def _rule(pattern: str) -> tuple[bool, bool, bool, Callable[[str], Any]]:
    keep, pattern = pattern.startswith("!"), pattern.lstrip("!")
    directories, pattern = pattern.endswith("/"), pattern.rstrip("/")
    matches = re.compile(fnmatch.translate(pattern.lstrip("/"))).match
    return keep, directories, "/" in pattern, matches


class Walk:
    """Iterates over all entries of the workspace as (path, handle of the parent, name, stat), parents first.

    The first entry is the workspace itself, with the path `.`. The other files of the home come last, below the path
    HOME. `problems` lists the path and the reason for each directory that could not be walked.
    """

    def __init__(self, root: Root, exclude: list[str], limit: int) -> None:
        self._root = root
        self._exclude = Exclude(exclude)
        self._limit = limit
        self.problems: list[tuple[str, str]] = []

    def __iter__(self) -> Iterator[tuple[str, int, str, os.stat_result]]:
        directories = HeldDirectories(self._root)
        try:
            yield ".", directories.enter(""), ".", directories.root_stat
            yield from self._entries(directories)
        finally:
            directories.finish()

    def _entries(self, directories: HeldDirectories) -> Iterator[tuple[str, int, str, os.stat_result]]:
        todo, count = [""] if self._root.home is None else [HOME, ""], 0
        while todo:
            folder = todo.pop()
            prefix, below = folder + "/" if folder else "", []
            try:
                handle = directories.enter(folder)
                with os.scandir(handle) as names:
                    found = sorted(names, key=_name)
                if folder == HOME and self._root.home is not None:
                    found = [entry for entry in found if entry.name not in _NOT_OF_THE_HOME]
                    if found:
                        yield HOME, handle, ".", _HOME_STAT
            except FileNotFoundError:
                continue
            except OSError as error:
                self.problems.append((folder, f"its content: {reason(error)}"))
                continue
            for entry in found:
                path, directory = prefix + entry.name, entry.is_dir(follow_symlinks=False)
                if path == HOME and self._root.home is not None:
                    self.problems.append((path, "its name is reserved for the files of the home"))
                    continue
                if (directory or self._exclude.files) and self._exclude(path, entry.name, directory):
                    continue
                count += 1
                if count > self._limit:
                    self.problems.append(
                        (path, f"more than {self._limit} entries: this one and all after it")
                    )
                    return
                try:
                    yield path, handle, entry.name, entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if directory and prefix.count("/") + 1 < MAX_DEPTH:
                    below.append(path)
                elif directory:
                    self.problems.append((path, f"its content: deeper than {MAX_DEPTH} directories"))
            todo.extend(reversed(below))


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def problem(path: str, text: str) -> dict[str, Any]:
    """Return the entry of a path that cannot be exported. `text` is the reason."""
    return {"path": path or ".", "kind": "other", "problem": text}


def special(mode: int) -> str:
    """Return a description of an entry that is no file, directory or symlink, such as a socket."""
    return _SPECIAL.get(stat.S_IFMT(mode), "no file")


def open_file(parent: int, name: str) -> BinaryIO:
    """Open a regular file for reading. If its owner lacks the read permission, grants it during the open."""
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


def digest_of(parent: int, name: str) -> tuple[str, int]:
    """Return the SHA-256 in hex and the size in bytes of a file."""
    with open_file(parent, name) as file:
        return digest_file(file)


def digest_file(file: BinaryIO) -> tuple[str, int]:
    """Return the SHA-256 in hex and the size of the rest of an open file."""
    sha, size = hashlib.sha256(), 0
    for chunk in iter(lambda: file.read(CHUNK), b""):
        sha.update(chunk)
        size += len(chunk)
    return sha.hexdigest(), size
