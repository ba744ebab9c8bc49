"""Opens directories by path, and keeps the current directory and those above it open.

A directory that its owner may not access, for example with mode 000, gets the missing permissions until `finish`.
"""

from __future__ import annotations

import contextlib
import os
import stat

from .confined_paths import DIRECTORY, Root
from .wire import Refusal

#: The path in a tree that stands for the home, when the root has one.
HOME = ".nightshift-home"
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class HeldDirectories:
    """Opens directories of the workspace by relative path, without following symlinks.

    A path whose first part is HOME leads into the home directory. If `writing`, `finish` also restores the modification
    times of all opened directories.
    """

    def __init__(self, root: Root, *, writing: bool = False) -> None:
        self._need = 0o700 if writing else 0o500
        self._writing = writing
        self._names: list[str] = []
        self._handles: list[int] = []
        #: Path → (mode, modification time) that `finish` sets. None leaves a value as it is.
        self.final: dict[str, tuple[int | None, int | None]] = {}
        self._home = root.home
        #: The stat of the root before its permissions were changed.
        self.root_stat = os.stat(root.path)
        self._handles.append(self._open(root.path, None, ""))

    @property
    def has_home(self) -> bool:
        """Return whether a path that begins with HOME leads into the home directory.

        If False, HOME is an ordinary name.
        """
        return self._home is not None

    def enter(self, path: str) -> int:
        """Return the handle of a directory. The handle is valid until the next call of this object.

        Raises OSError when the directory cannot be opened, and Refusal for a path with an empty part, `.` or `..`.
        """
        parts = path.split("/") if path else []
        if any(part in ("", ".", "..") for part in parts):
            raise Refusal("outside", f"{path[:200]!r} is not a path of a tree")
        same = 0
        while same < min(len(parts), len(self._names)) and parts[same] == self._names[same]:
            same += 1
        self._leave(same)
        for part in parts[same:]:
            if part == HOME and not self._names and self._home is not None:
                handle = self._open(self._home, None, HOME)
            else:
                handle = self._open(part, self._handles[-1], "/".join((*self._names, part)))
            self._names.append(part)
            self._handles.append(handle)
        return self._handles[-1]

    def parent(self, path: str) -> tuple[int, str]:
        """Return the handle of the directory that contains the last part of a path, and the name of that part."""
        above, _, name = path.rpartition("/")
        if name in ("", ".", "..") or "\0" in path:
            raise Refusal("outside", f"{path[:200]!r} is not a path of a tree")
        return self.enter(above), name

    def finish(self) -> list[tuple[str, str]]:
        """Set the modes and times that `final` has for the opened directories, the deepest first, and close all
        handles.

        Returns (path, reason) for each directory where that failed.
        """
        failed = []
        try:
            for path in sorted(self.final, key=lambda one: one.split("/"), reverse=True):
                mode, mtime_ns = self.final[path]
                try:
                    handle = self.enter(path)
                    if mtime_ns is not None:
                        os.utime(handle, ns=(mtime_ns, mtime_ns))
                    if mode is not None:
                        os.fchmod(handle, mode & 0o7777)
                except FileNotFoundError:
                    continue
                except (OSError, OverflowError, Refusal) as error:
                    failed.append((path, reason(error)))
        finally:
            self._leave(-1)
        return failed

    def _leave(self, depth: int) -> None:
        while len(self._handles) > depth + 1:
            os.close(self._handles.pop())
        del self._names[max(depth, 0) :]

    def _open(self, name: str, parent: int | None, path: str) -> int:
        place = os.open(name, _PLACE, dir_fd=parent)
        try:
            found = os.fstat(place)
            mode = stat.S_IMODE(found.st_mode)
            closed = mode & self._need != self._need
            if closed:
                with contextlib.suppress(PermissionError):  # of another owner: others' permissions may do
                    os.chmod(f"/proc/self/fd/{place}", mode | self._need)
            if closed or self._writing:
                self.final.setdefault(
                    path, (mode if closed else None, found.st_mtime_ns if self._writing else None)
                )
            return os.open(".", DIRECTORY, dir_fd=place)
        finally:
            os.close(place)


def reason(error: BaseException) -> str:
    """Return the reason for an error in a few words for a person."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return str(error)[:200]
