"""What a sandbox has used of its limits: the disk and the processes as its agent sees them, the rest by its cgroup."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """The limits of all processes of a sandbox together.

    `memory_kills` and `throttled_s` count since the caller connected to the sandbox. `memory_kills` is None where
    nobody counts.
    """

    memory_bytes: int
    memory_kills: int | None
    processes: int
    cpus: float
    throttled_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    """The disk of the home, the number of processes and threads, and the usage of the group where there is one."""

    free_bytes: int
    bytes: int
    free_files: int
    files: int
    tasks: int
    group: GroupUsage | None = None
