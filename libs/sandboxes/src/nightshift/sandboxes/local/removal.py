"""Removes a directory tree of any depth and with any permissions, which hostile code may have made. Follows no
links.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove the directory with its content. Does nothing when it does not exist. Leaves files that cannot be removed.

    Moves deep directories up into the top directory before it empties them. So neither the number of open descriptors
    nor the length of a path grows with the depth.
    """
    with suppress(FileNotFoundError):
        top = os.open(path, _DIRECTORY)
        try:
            _empty(top)
        finally:
            os.close(top)
        with suppress(OSError):
            os.rmdir(path)


def _empty(top: int) -> None:
    token, number, progress = secrets.token_hex(8), 0, True
    while progress:
        progress = False
        for name in os.listdir(top):
            if not _is_directory(name, top):
                progress |= _unlink(name, top)
                continue
            for inner in _open_up(name, top):
                if _is_directory(inner[1], inner[0]):
                    number += 1
                    progress |= _move(inner[1], inner[0], f"{token}{number}", top)
                else:
                    progress |= _unlink(inner[1], inner[0])
            with suppress(OSError):
                os.rmdir(name, dir_fd=top)
                progress = True


def _open_up(name: str, top: int) -> Iterator[tuple[int, str]]:
    """Open the directory `name` in `top`, after giving its owner access. Yields (handle, entry) for each entry in it.

    Yields nothing when it cannot be opened.
    """
    with suppress(OSError):
        os.chmod(name, 0o700, dir_fd=top)
    try:
        handle = os.open(name, _DIRECTORY, dir_fd=top)
    except OSError:
        return
    try:
        for inner in os.listdir(handle):
            yield handle, inner
    finally:
        os.close(handle)


def _is_directory(name: str, parent: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _unlink(name: str, parent: int) -> bool:
    with suppress(OSError):
        os.unlink(name, dir_fd=parent)
        return True
    return False


def _move(name: str, parent: int, new: str, top: int) -> bool:
    with suppress(OSError):
        os.chmod(name, 0o700, dir_fd=parent)  # a directory must itself be writable to be moved
        os.rename(name, new, src_dir_fd=parent, dst_dir_fd=top)
        return True
    return False
