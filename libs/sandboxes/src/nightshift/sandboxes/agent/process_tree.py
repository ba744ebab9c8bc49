"""Finds the processes that a call has started, from /proc."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple


class Process(NamedTuple):
    pid: int
    parent: int
    session: int


def living() -> list[Process]:
    """Every process that runs or is stopped. Zombies are left out."""
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
    """The pids of all living descendants of a process."""
    processes = living()
    found = [one.pid for one in processes if one.parent == ancestor]
    for pid in found:
        found.extend(one.pid for one in processes if one.parent == pid)
    return found


def members(mark: bytes, leader: int) -> list[int]:
    """The living processes of a call: those below its first process, in its session, or with `mark` in their
    environment. A process that has left all three on purpose is not found.
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
    """Whether the process began with this variable, `NAME=value`, in its environment."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return mark in file.read(256 * 1024).split(b"\0")
    return False
