"""Finds the processes of a call in /proc."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple


class Process(NamedTuple):
    pid: int
    parent: int
    session: int


def living() -> list[Process]:
    """Return every process that runs or is stopped, but no zombies."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                with open(f"/proc/{name}/stat", encoding="latin-1") as file:
                    fields = file.read().rpartition(")")[2].split()
                if fields[0] not in ("Z", "X"):
                    found.append(Process(int(name), int(fields[1]), int(fields[3])))
    return found


def descendants(ancestor: int) -> list[int]:
    """Return the pids of all living descendants of the process `ancestor`."""
    processes = living()
    found = [one.pid for one in processes if one.parent == ancestor]
    for pid in found:
        found.extend(one.pid for one in processes if one.parent == pid)
    return found


def members(mark: bytes, leader: int) -> list[int]:
    """Return the pids of the living processes of a call, of which `leader` was the first.

    These are the leader's descendants, the processes in its session, and those whose environment contains `mark`
    (`NAME=value`). A process that deliberately left all three is not found.
    """
    processes = [one for one in living() if one.pid != 1]
    found = {one.pid for one in processes if leader in (one.pid, one.session)}
    grew = True
    while grew:
        more = {one.pid for one in processes if one.parent in found} - found
        found |= more
        grew = bool(more)
    found.update(one.pid for one in processes if one.pid not in found and marked(one.pid, mark))
    return sorted(found)


def marked(pid: int, mark: bytes) -> bool:
    """Return whether the process started with the environment variable `mark`, given as `NAME=value`."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return mark in file.read(256 * 1024).split(b"\0")
    return False
