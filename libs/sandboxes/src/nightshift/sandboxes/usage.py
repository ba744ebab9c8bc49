"""How much of its limits a sandbox has used. Its agent measures the disk and the processes, and its cgroup the rest."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """The limits of all processes of a sandbox together, and how often they were reached.

    `memory_kills` and `throttled_s` count from when the caller connected to the sandbox. `memory_kills` is None when
    the kernel does not count them.
    """

    memory_bytes: int
    memory_kills: int | None
    processes: int
    cpus: float
    throttled_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    """The disk of the home, the number of processes and threads, and the usage of the cgroup if there is one."""

    free_bytes: int
    bytes: int
    free_files: int
    files: int
    tasks: int
    group: GroupUsage | None = None
