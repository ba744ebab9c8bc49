"""Opens paths so that they cannot lead out of the workspace.

Each part of a path is opened relative to a directory handle and without following a symlink; a symlink is read, and its
target is walked by the same rules. So swapping directories and symlinks meanwhile gains nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from .wire import Refusal

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40


class Root:
    """The directory that no path may leave."""

    def __init__(self, path: str) -> None:
        self.path = os.path.normpath(path)

    def relative(self, path: str) -> list[str]:
        """Split a path, absolute or relative to the root, into the parts below the root. Keeps `..` for the walk.

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

    def open_parent(self, path: str, make: bool = False, follow: bool = True) -> tuple[int, str]:
        """Open the directory that holds the last part. Returns its handle, which the caller closes, and the part's
        name.

        With `follow`, a last part that is a symlink is replaced by its target. With `make`, missing directories are
        made.
        """
        walk = _Walk(self, make, follow)
        try:
            return walk.run(self.relative(path))
        except OSError as error:
            raise problem(error, path) from None
        finally:
            walk.close()

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        """Open a file below the root. Raises Refusal."""
        parent, name = self.open_parent(path)
        try:
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode, dir_fd=parent)
        except OSError as error:
            raise problem(error, path) from None
        finally:
            os.close(parent)


class _Walk:
    """One walk down a path. It keeps a stack of handles, so `..` goes one handle back and never reaches the kernel."""

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
        self._handles.append(os.open(self._root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        left = list(reversed(parts))
        while left:
            part = left.pop()
            if part == "..":
                if len(self._handles) == 1:
                    raise Refusal("outside", "the path leads out of the workspace")
                os.close(self._handles.pop())
                continue
            target = self._link(part) if left or self._follow else None
            if target is not None:
                if target.startswith("/"):
                    while len(self._handles) > 1:
                        os.close(self._handles.pop())
                    left.extend(reversed(self._root.relative(target)))
                else:
                    left.extend(reversed([p for p in target.split("/") if p not in ("", ".")]))
            elif left:
                self._handles.append(self._enter(part))
            else:
                return self._handles.pop(), part
        return self._handles.pop(), "."

    def _link(self, part: str) -> str | None:
        try:
            target = os.readlink(part, dir_fd=self._handles[-1])
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # no symlink, or not there
                return None
            raise
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return target

    def _enter(self, part: str) -> int:
        try:
            return os.open(part, _DIRECTORY, dir_fd=self._handles[-1])
        except FileNotFoundError:
            if not self._make:
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=self._handles[-1])
        return os.open(part, _DIRECTORY, dir_fd=self._handles[-1])


def problem(error: OSError, path: str) -> Refusal:
    """The Refusal that stands for an OSError."""
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
        errno.ENOSPC: ("too_large", "no space left"),
        errno.EFBIG: ("too_large", "file too large"),
        errno.ENAMETOOLONG: ("invalid", "name too long"),
    }
    kind, text = kinds.get(error.errno or 0, ("denied", error.strerror or "failed"))
    return Refusal(kind, f"{path}: {text}")


def require_regular(handle: int, path: str) -> os.stat_result:
    """The stat of an open file. Raises Refusal unless it is a regular file."""
    found = os.fstat(handle)
    if stat.S_ISDIR(found.st_mode):
        raise Refusal("is_directory", f"{path}: is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise Refusal("invalid", f"{path}: is not a regular file")
    return found
