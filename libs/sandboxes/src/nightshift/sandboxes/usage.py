"""How much of its limits a sandbox has used.

The agent program in the sandbox measures the disk and the processes. The sandbox's cgroup gives the other values.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """The limits of a sandbox's processes together (memory, number, CPUs), and how often the processes reached them.

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
    """The usage of a sandbox: the disk of its home, its processes and threads (`tasks`), and its cgroup if there is
    one.
    """

    free_bytes: int
    bytes: int
    free_files: int
    files: int
    tasks: int
    group: GroupUsage | None = None
