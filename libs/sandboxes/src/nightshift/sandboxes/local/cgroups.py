"""The cgroup of a local sandbox: limits on memory, processes and CPU of all its processes together, and the freezer.

Both kinds of hierarchy are used as the machine has them: the unified one (v2), or one for each controller (v1). Where
this process may not make groups, as in an ordinary container, there is none: `find` returns None for a controller.
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

_ROOT: Final = Path("/sys/fs/cgroup")
_NAME: Final = "nightshift"
_PERIOD_US: Final = 100_000
_NEW_S: Final = 120.0

Controller = Literal["memory", "pids", "cpu", "freezer"]
CONTROLLERS: Final[tuple[Controller, ...]] = ("memory", "pids", "cpu", "freezer")


@dataclass(frozen=True, slots=True)
class GroupLimits:
    memory_bytes: int
    processes: int
    cpus: float


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Where the groups of sandboxes are made: for each controller the parent directory. `unified`: it is v2."""

    parents: Mapping[Controller, Path]
    unified: bool

    @classmethod
    def find(cls, root: Path = _ROOT) -> "Cgroups":
        """Look what this process may use here. Makes the parent directories."""
        if (root / "cgroup.controllers").exists():
            return cls(_unified(root), True)
        parents: dict[Controller, Path] = {}
        for controller in CONTROLLERS:
            parent = root / controller / _NAME
            with suppress(OSError):
                parent.mkdir(exist_ok=True)
                if os.access(parent / "cgroup.procs", os.W_OK):
                    parents[controller] = parent
        return cls(parents, False)

    def sweep(self) -> None:
        """Remove groups that no process is in any more and that nobody has just made."""
        for parent in set(self.parents.values()):
            with suppress(OSError):
                for place in parent.iterdir():
                    if place.is_dir() and time.time() - place.stat().st_mtime > _NEW_S:
                        with suppress(OSError):  # a process is in it
                            place.rmdir()

    def group(self, name: str) -> "Group":
        return Group(name, self)


def _unified(root: Path) -> dict[Controller, Path]:
    """As the owner of the hierarchy below its root, else below this process's own group when that was delegated."""
    own = root
    with suppress(OSError, IndexError):
        own = root / Path("/proc/self/cgroup").read_text(encoding="ascii").split("::")[1].strip().lstrip("/")
    for above in dict.fromkeys((root, own)):
        parent = above / _NAME
        with suppress(OSError):
            parent.mkdir(exist_ok=True)
            wanted = "+memory +pids +cpu"
            for place in (above, parent):
                with suppress(OSError):  # it may be set already, and not by us
                    (place / "cgroup.subtree_control").write_text(wanted, encoding="ascii")
            usable = (parent / "cgroup.subtree_control").read_text(encoding="ascii").split()
            found = {one: parent for one in CONTROLLERS if one in usable}
            if (parent / "cgroup.procs").exists():
                return {**found, "freezer": parent}
    return {}


@dataclass(frozen=True, slots=True)
class Group:
    """The group of one sandbox. A controller that is not available is left out."""

    name: str
    cgroups: Cgroups

    def _place(self, controller: Controller) -> Path | None:
        parent = self.cgroups.parents.get(controller)
        return None if parent is None else parent / self.name

    def _places(self) -> set[Path]:
        return {parent / self.name for parent in self.cgroups.parents.values()}

    def make(self, limits: GroupLimits) -> None:
        """Make the group with its limits. Raises OSError."""
        for place in self._places():
            place.mkdir(exist_ok=True)
        quota = int(limits.cpus * _PERIOD_US)
        if self.cgroups.unified:
            values: list[tuple[Controller, str, str]] = [
                ("memory", "memory.max", str(limits.memory_bytes)),
                ("pids", "pids.max", str(limits.processes)),
                ("cpu", "cpu.max", f"{quota} {_PERIOD_US}"),
            ]
        else:
            values = [
                ("memory", "memory.limit_in_bytes", str(limits.memory_bytes)),
                ("pids", "pids.max", str(limits.processes)),
                ("cpu", "cpu.cfs_period_us", str(_PERIOD_US)),
                ("cpu", "cpu.cfs_quota_us", str(quota)),
            ]
        for controller, file, value in values:
            group = self._place(controller)
            if group is not None:
                (group / file).write_text(value, encoding="ascii")
        memory = self._place("memory")
        if memory is not None and self.cgroups.unified:
            with suppress(OSError):  # a kernel without swap accounting
                (memory / "memory.swap.max").write_text("0", encoding="ascii")

    def add(self, pid: int) -> None:
        """Move a process into the group; its later children are born there. Raises OSError."""
        for place in self._places():
            (place / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def freeze(self, frozen: bool) -> bool:
        """Freeze or thaw every process. Returns False when no freezer is available."""
        place = self._place("freezer")
        if place is None or not place.is_dir():
            return False
        if self.cgroups.unified:
            (place / "cgroup.freeze").write_text("1" if frozen else "0", encoding="ascii")
            return True
        state = "FROZEN" if frozen else "THAWED"
        file = place / "freezer.state"
        deadline = time.monotonic() + 10
        file.write_text(state, encoding="ascii")
        while file.read_text(encoding="ascii").strip() != state and time.monotonic() < deadline:
            file.write_text(state, encoding="ascii")  # freezing one that forks may take several attempts
            time.sleep(0.002)
        return True

    def memory_kills(self) -> int | None:
        """How often the kernel killed a process at the memory limit of the group. None without a limit."""
        return self._count(
            "memory", "memory.events" if self.cgroups.unified else "memory.oom_control", "oom_kill"
        )

    def throttled_s(self) -> float:
        """For how many seconds the CPU limit has kept processes waiting."""
        if self.cgroups.unified:
            return (self._count("cpu", "cpu.stat", "throttled_usec") or 0) / 1e6
        return (self._count("cpu", "cpu.stat", "throttled_time") or 0) / 1e9

    def _count(self, controller: Controller, file: str, wanted: str) -> int | None:
        place = self._place(controller)
        if place is not None:
            with suppress(OSError, ValueError):
                for line in (place / file).read_text(encoding="ascii").splitlines():
                    name, _, value = line.partition(" ")
                    if name == wanted:
                        return int(value)
        return None

    def remove(self) -> None:
        """Remove the group once it is empty. Leaves it when a process is left."""
        for place in self._places():
            for _ in range(50):
                try:
                    place.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)  # the last process has ended and is not yet out of its group
                else:
                    break
