"""The limits of local sandboxes, and the parts of the host that they see."""

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
    """`memory_bytes`, `processes` and `cpus` hold for all processes of the sandbox together where there are cgroups.

    Without them `memory_bytes` limits the private writable memory of each process: V8 reserves more address space than
    it uses. Processes are counted by their user everywhere. `disk_bytes` and `files` limit the home where this process
    can mount an image, and `file_bytes` each file.
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
        """The size of /tmp and of /dev/shm. Both stay in memory, so together they leave half of it."""
        return min(self.tmp_bytes, self.memory_bytes // 4)

    def group(self) -> GroupLimits:
        """The limits of the cgroup. The agent's own processes are counted there too."""
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
    """`state_dir` holds a directory for each sandbox. `owner` tags this installation's sandboxes.

    `toolchains` are host directories that sandboxes see read-only, at the same path.
    """

    state_dir: Path
    owner: str = "nightshift"
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    toolchains: tuple[Path, ...] = ()
    bwrap: Path | None = None  # None: the system's, else the one of the wheel
    preview_host: str = "127.0.0.1"


def python_home() -> Path:
    """The installation directory of the running Python, outside any virtual environment."""
    return Path(sys.base_prefix)


def python_binary() -> Path:
    """The path of the interpreter itself, which is no symlink into a virtual environment."""
    return python_home() / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def search_path() -> str:
    """The PATH of commands inside a sandbox."""
    parts = ["/home/user/.local/bin", str(python_home() / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
    return os.pathsep.join(dict.fromkeys(parts))
