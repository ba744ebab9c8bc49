"""Reserves disk space for the agent program's own files, so that a full disk does not hide the output of commands."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_BYTES = 1024 * 1024
#: How much of the reserve is released for one file when the disk is full.
_SHARE = 32 * 1024


def keep(state: str) -> None:
    """Allocate the reserve, a file in the directory `state`. Does nothing when the disk has no room for it."""
    path = os.path.join(state, "reserve")
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        if os.fstat(handle).st_size < _BYTES:
            os.posix_fallocate(handle, 0, _BYTES)
    except OSError:
        pass
    finally:
        os.close(handle)


def use(outputs: str, do: Callable[[], _T]) -> _T:
    """Call `do` and return its result. When the disk is full, release a part of the reserve and call `do` again.

    `outputs` is the directory of one call's output, two levels below the state directory. Raises the errors of `do`.
    """
    try:
        return do()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    path = os.path.join(os.path.dirname(os.path.dirname(outputs)), "reserve")
    os.truncate(path, max(0, os.stat(path).st_size - _SHARE))
    return do()
