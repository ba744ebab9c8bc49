"""The cgroup of a local sandbox.

It limits memory, number and CPU of all the sandbox's processes together, and freezes them. Both kinds of hierarchy are
supported: the unified one (v2), and one for each controller (v1). In some places, such as an ordinary container, this
process may not create groups. Then `Cgroups.find` has no parent directory for the controller, and the sandbox runs
without that limit.
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
    """For each usable controller, the directory in which sandboxes' groups are created. `unified`: the hierarchy is
    v2.
    """

    parents: Mapping[Controller, Path]
    unified: bool

    @classmethod
    def find(cls, root: Path = _ROOT) -> "Cgroups":
        """Find out which controllers this process may use on this machine. Creates the parent directories for
        groups.
        """
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
        """Remove the groups without a process, except groups so new that a process may still be added."""
        for parent in set(self.parents.values()):
            with suppress(OSError):
                for place in parent.iterdir():
                    if place.is_dir() and time.time() - place.stat().st_mtime > _NEW_S:
                        with suppress(OSError):  # a process is still in the group
                            place.rmdir()

    def group(self, name: str) -> "Group":
        return Group(name, self)


def _unified(root: Path) -> dict[Controller, Path]:
    """Return for each controller the parent directory of groups in the v2 hierarchy.

    The directory is below the root when this process owns the whole hierarchy. Otherwise it is below the group of this
    process, if that was delegated to it.
    """
    own = root
    with suppress(OSError, IndexError):
        own = root / Path("/proc/self/cgroup").read_text(encoding="ascii").split("::")[1].strip().lstrip("/")
    for above in dict.fromkeys((root, own)):
        parent = above / _NAME
        with suppress(OSError):
            parent.mkdir(exist_ok=True)
            for place in (above, parent):
                for name in ("memory", "pids", "cpu"):  # one by one: for a missing one the kernel refuses all
                    with suppress(OSError):  # another process may have set it already
                        (place / "cgroup.subtree_control").write_text(f"+{name}", encoding="ascii")
            usable = (parent / "cgroup.subtree_control").read_text(encoding="ascii").split()
            found = {one: parent for one in CONTROLLERS if one in usable}
            if (parent / "cgroup.procs").exists():
                return {**found, "freezer": parent}
    return {}


@dataclass(frozen=True, slots=True)
class Group:
    """The cgroup of one sandbox. It has no limits of controllers that are not available on this machine."""

    name: str
    cgroups: Cgroups

    def _place(self, controller: Controller) -> Path | None:
        parent = self.cgroups.parents.get(controller)
        return None if parent is None else parent / self.name

    def _places(self) -> set[Path]:
        return {parent / self.name for parent in self.cgroups.parents.values()}

    def make(self, limits: GroupLimits) -> None:
        """Create the group with its limits. Raises OSError when the kernel refuses that."""
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
            with suppress(OSError):  # the kernel may count no swap
                (memory / "memory.swap.max").write_text("0", encoding="ascii")

    def add(self, pid: int) -> None:
        """Move a process into the group, so that its later children start there.

        Raises OSError when the kernel refuses that.
        """
        for place in self._places():
            (place / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def freeze(self, frozen: bool) -> bool:
        """Freeze every process of the group, or let all run again if not `frozen`. Returns False when no freezer is
        available.
        """
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
            # Freezing a process that forks may take several attempts.
            file.write_text(state, encoding="ascii")
            time.sleep(0.002)
        return True

    def memory_kills(self) -> int | None:
        """Return how often the kernel killed a process at the group's memory limit. None when the kernel does not
        count that.
        """
        return self._count(
            "memory", "memory.events" if self.cgroups.unified else "memory.oom_control", "oom_kill"
        )

    def throttled_s(self) -> float:
        """Return for how many seconds the CPU limit has made the group's processes wait."""
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
        """Remove the group. A group that still has a process after half a second is left."""
        for place in self._places():
            for _ in range(50):
                try:
                    place.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)  # the last process has ended, but is not out of its group yet
                else:
                    break
