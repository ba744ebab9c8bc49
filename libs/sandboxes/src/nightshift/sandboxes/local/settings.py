"""What a local sandbox may use, and which parts of the host it sees."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings. Memory is private writable memory per process: V8 reserves far more address space than it uses."""

    processes: int = 512
    memory_bytes: int = 4 * _GIB
    file_bytes: int = 2 * _GIB
    open_files: int = 4096
    tmp_bytes: int = _GIB

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
    """`state_dir` holds a directory per sandbox. `owner` tags what is ours.

    `toolchains`: host directories shown read-only at the same place, beside /usr and the Python that runs us.
    """

    state_dir: Path
    owner: str = "nightshift"
    limits: Limits = field(default_factory=Limits)
    toolchains: tuple[Path, ...] = ()
    bwrap: Path | None = None  # none: the system's, else the one of the wheel
    preview_host: str = "127.0.0.1"


def python_home() -> Path:
    """Where the Python that runs us lives, outside any virtual environment: the agent runs on it."""
    return Path(sys.base_prefix)


def python_binary() -> Path:
    """The interpreter itself, no symlink into a virtual environment."""
    return python_home() / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def search_path() -> str:
    """PATH inside."""
    parts = ["/home/user/.local/bin", str(python_home() / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
    return os.pathsep.join(dict.fromkeys(parts))
