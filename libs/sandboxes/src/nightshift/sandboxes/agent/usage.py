"""Measures the free space of a sandbox's disk, and counts its processes."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from .process_tree import living


def usage(home: str) -> dict[str, Any]:
    """Return size and free space of the home's disk, in bytes and in files, and the number of threads of commands."""
    disk = os.statvfs(home)
    tasks = 0
    for process in living():
        if process.pid not in (1, os.getpid()):
            with contextlib.suppress(OSError):
                tasks += len(os.listdir(f"/proc/{process.pid}/task"))
    return {
        "free_bytes": disk.f_bavail * disk.f_frsize,
        "bytes": disk.f_blocks * disk.f_frsize,
        "free_files": disk.f_favail,
        "files": disk.f_files,
        "tasks": tasks,
    }
