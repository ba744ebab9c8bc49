"""Finds out which mechanisms isolate and limit local sandboxes on this machine, and which are missing."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nightshift.sandboxes.local.cgroups import CONTROLLERS, Cgroups
from nightshift.sandboxes.local.disks import Disks, NoDisks
from nightshift.sandboxes.local.settings import SandboxLimits
from nightshift.sandboxes.local.state import SandboxDirectory


@dataclass(frozen=True, slots=True)
class Isolation:
    """The mechanisms in effect (`holds`), and the missing ones (`missing`), each as text for a person.

    The text of a missing one also says what is used instead.
    """

    holds: tuple[str, ...]
    missing: tuple[str, ...]


def isolation(cgroups: Cgroups, limits: SandboxLimits, *, as_root: bool | None = None) -> Isolation:
    """Find out which mechanisms are in effect.

    `as_root` says whether the sandbox gateway runs as root. If `as_root` is None, the function asks whether this
    process does.
    """
    holds, missing = [], []
    if os.geteuid() == 0 if as_root is None else as_root:
        holds.append("the agent and the commands have user ids of their own")
    else:
        missing.append(
            "the agent and the commands have one user id, because only root can map two: the agent's process 1 is out"
            " of reach, its file operations are not"
        )
    found = [one for one in CONTROLLERS if one in cgroups.parents]
    if found:
        holds.append(f"cgroup v{2 if cgroups.unified else 1} limits {', '.join(found)}")
    stand_ins = {
        "memory": "memory is limited for each process and not in total, and memfds are refused",
        "pids": "processes are counted by user",
        "cpu": "CPU is not limited",
        "freezer": "a pause stops processes by signal",
    }
    missing += [f"no cgroup for {one}: {stand_ins[one]}" for one in CONTROLLERS if one not in found]
    try:
        Disks.prepare(limits.disk())
    except NoDisks as error:
        missing.append(
            f"no disk of its own for a sandbox ({error}): its home is limited for each file and not in total"
        )
    else:
        disk = f"{limits.disk_bytes / 1024**3:g} GiB and {limits.disk().inodes:,} files"
        holds.append(f"each home is an ext4 image of {disk}")
    return Isolation(tuple(holds), tuple(missing))


def count_sandboxes(state_dir: Path) -> dict[str, int]:
    """Count the local sandboxes of every owner by state: running, paused or ended. Changes nothing."""
    if not state_dir.is_dir():
        return {}
    directories = [SandboxDirectory(path) for path in state_dir.iterdir()]
    states = (
        "ended" if not one.runs else "paused" if one.paused.exists() else "running" for one in directories
    )
    return dict(Counter(states))
