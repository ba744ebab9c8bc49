"""Walks the workspace and opens its files for reading, without following a symlink."""

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

#: What the home has that is no part of a tree: the workspace, which is the rest of it, and the agent's own files.
_NOT_OF_THE_HOME = ("workspace", ".nightshift")
#: The home itself, whose mode and times are not the build's.
_HOME_STAT = os.stat_result([stat.S_IFDIR | 0o755, *[0] * 9])
#: A snapshot holds no deeper directories.
MAX_DEPTH = 200
_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Exclude:
    """Patterns of what a walk leaves out, in the manner of .gitignore: the last one that matches decides.

    `!` in front keeps what an earlier pattern excludes, `/` at the end matches directories alone, and a pattern with
    another `/` matches the path from the workspace. A star matches any characters.
    """

    def __init__(self, patterns: list[str]) -> None:
        self._rules = [_rule(pattern) for pattern in patterns if pattern.strip("!/")]
        #: Whether a pattern is for files too. When none is, no file is compared with any.
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
    """Iterates over (path, handle of the parent, name, stat) of every entry of the workspace, parents first.

    The first entry is the root itself, with the path `.`. The files of the home follow below HOME, when it has some.
    `problems` collects path and reason of what could not be walked.
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
    """The entry of a path that cannot be exported, or whose content cannot."""
    return {"path": path or ".", "kind": "other", "problem": text}


def special(mode: int) -> str:
    """What an entry is that is no file, directory or symlink, for a person."""
    return _SPECIAL.get(stat.S_IFMT(mode), "no file")


def open_file(parent: int, name: str) -> BinaryIO:
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


def digest_of(parent: int, name: str) -> tuple[str, int]:
    """Returns the hex SHA-256 and the size in bytes."""
    with open_file(parent, name) as file:
        return digest_file(file)


def digest_file(file: BinaryIO) -> tuple[str, int]:
    """Returns the hex SHA-256 and the size of what is left to read of the file."""
    sha, size = hashlib.sha256(), 0
    for chunk in iter(lambda: file.read(CHUNK), b""):
        sha.update(chunk)
        size += len(chunk)
    return sha.hexdigest(), size
