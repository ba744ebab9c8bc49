"""Opens paths so that they cannot lead out of the workspace.

Each part of a path is opened relative to a directory handle, without following symlinks. The target of a symlink is
read and walked by the same rules. So a path never leads outside, even when a command swaps directories and symlinks
during the walk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from .wire import FULL, Refusal

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MAX_LINKS = 40


class Root:
    """The directory that no path may leave: the workspace.

    `home` is the directory above it. Snapshots contain the other files of the home, too.
    """

    def __init__(self, path: str, home: str | None = None) -> None:
        self.path = os.path.normpath(path)
        self.home = home

    def relative(self, path: str) -> list[str]:
        """Split a path, which is absolute or relative to the root, into its parts below the root. `..` is kept.

        Raises Refusal when an absolute path is outside the root.
        """
        if "\0" in path or not path:
            raise Refusal("invalid", f"not a path: {path[:200]!r}")
        if path.startswith("/"):
            path = os.path.normpath(path)
            if path != self.path and not path.startswith(self.path + "/"):
                raise Refusal("outside", f"{path} is outside the workspace {self.path}")
            path = path[len(self.path) :]
        return [part for part in path.split("/") if part not in ("", ".")]

    @contextlib.contextmanager
    def parent(self, path: str, *, make: bool = False, follow: bool = True) -> Iterator[tuple[int, str]]:
        """Open the directory that contains the last part of a path. Yields its handle and the name of that part.

        If `make`, missing directories are created. If `follow` is False, a symlink in an earlier part is refused, and
        one in the last part is not followed. An OSError in the block becomes a Refusal.
        """
        walk = _Walk(self, make, follow)
        try:
            yield walk.run(self.relative(path))
        except OSError as error:
            raise problem(error, path) from None
        finally:
            walk.close()

    def open(self, path: str, flags: int) -> int:
        """Open a file below the root and return its descriptor. Raises Refusal when that fails or the path leads
        outside.
        """
        with self.parent(path) as (parent, name):
            return os.open(name, flags | READ, dir_fd=parent)


class _Walk:
    """One walk down a path.

    It keeps a stack of open directories. So it resolves `..` itself, to the directory above on the stack, and never
    passes `..` to the kernel.
    """

    def __init__(self, root: Root, make: bool, follow: bool) -> None:
        self._root = root
        self._make = make
        self._follow = follow
        self._links = 0
        self._handles: list[int] = []

    def close(self) -> None:
        while self._handles:
            os.close(self._handles.pop())

    def run(self, parts: list[str]) -> tuple[int, str]:
        self._handles.append(os.open(self._root.path, DIRECTORY & ~(os.O_NOFOLLOW if self._follow else 0)))
        left = list(reversed(parts))
        while left:
            part = left.pop()
            if part == "..":
                if len(self._handles) == 1:
                    raise Refusal("outside", "the path leads out of the workspace")
                os.close(self._handles.pop())
                continue
            target = self._link(part) if self._follow else None
            if target is not None:
                if target.startswith("/"):
                    while len(self._handles) > 1:
                        os.close(self._handles.pop())
                left.extend(reversed(self._root.relative(target)))
            elif left:
                self._handles.append(self._enter(part))
            else:
                return self._handles[-1], part
        return self._handles[-1], "."

    def _link(self, part: str) -> str | None:
        try:
            target = os.readlink(part, dir_fd=self._handles[-1])
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # not a symlink, or it does not exist
                return None
            raise
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return target

    def _enter(self, part: str) -> int:
        try:
            return os.open(part, DIRECTORY, dir_fd=self._handles[-1])
        except FileNotFoundError:
            if not self._make:
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=self._handles[-1])
        return os.open(part, DIRECTORY, dir_fd=self._handles[-1])


def problem(error: OSError, path: str) -> Refusal:
    """Return the Refusal for an OSError about this path."""
    kinds = {
        errno.ENOENT: ("not_found", "does not exist"),
        errno.EISDIR: ("is_directory", "is a directory"),
        errno.ENOTDIR: ("not_directory", "a part of the path is not a directory"),
        errno.ELOOP: ("outside", "is or goes through a symlink that cannot be followed"),
        errno.EEXIST: ("exists", "exists already"),
        errno.ENOTEMPTY: ("exists", "is not empty"),
        errno.EACCES: ("denied", "permission denied"),
        errno.EPERM: ("denied", "not permitted"),
        errno.EROFS: ("denied", "read-only"),
        errno.ENXIO: ("invalid", "is not a regular file"),
        errno.ENOSPC: ("too_large", FULL),
        errno.EFBIG: ("too_large", "file too large"),
        errno.ENAMETOOLONG: ("invalid", "name too long"),
    }
    kind, text = kinds.get(error.errno or 0, ("denied", error.strerror or "failed"))
    return Refusal(kind, f"{path}: {text}")


def require_regular(handle: int, path: str) -> os.stat_result:
    """Return the stat of an open file. Raises Refusal unless it is a regular file."""
    found = os.fstat(handle)
    if stat.S_ISDIR(found.st_mode):
        raise Refusal("is_directory", f"{path}: is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise Refusal("invalid", f"{path}: is not a regular file")
    return found
