"""The files that limits are written to, in both kinds of hierarchy, and what is read from them."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightshift.sandboxes.local.cgroups import CONTROLLERS, Cgroups, GroupLimits

LIMITS = GroupLimits(memory_bytes=1000, processes=20, cpus=1.5)


@pytest.fixture
def unified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Cgroups]:
    """Makes a hierarchy with these controllers, whose file for them answers as the kernel does."""
    write = Path.write_text

    def as_kernel(path: Path, text: str, **more: Any) -> int:
        if path.name != "cgroup.subtree_control":
            return write(path, text, **more)
        asked, offered = (
            text.replace("+", "").split(),
            (path.parent / "cgroup.controllers").read_text().split(),
        )
        if not set(asked) <= set(offered):
            raise OSError(errno.ENOENT, "no such controller")
        return write(path, " ".join([*path.read_text().split(), *asked]))

    def make(controllers: str) -> Cgroups:
        for place in (tmp_path, tmp_path / "nightshift"):
            place.mkdir(exist_ok=True)
            (place / "cgroup.controllers").write_text(controllers)
            (place / "cgroup.subtree_control").touch()
            (place / "cgroup.procs").touch()
        monkeypatch.setattr(Path, "write_text", as_kernel)
        return Cgroups.find(tmp_path)

    return make


def test_a_controller_that_is_not_delegated_keeps_no_other_away(unified: Callable[[str], Cgroups]) -> None:
    assert set(unified("memory pids").parents) == {"memory", "pids", "freezer"}


def test_limits_are_written_as_the_unified_hierarchy_has_them(
    unified: Callable[[str], Cgroups], tmp_path: Path
) -> None:
    cgroups, parent = unified("cpu memory pids"), tmp_path / "nightshift"
    assert (cgroups.unified, set(cgroups.parents)) == (True, set(CONTROLLERS))
    group = cgroups.group("s")
    group.make(LIMITS)
    group.add(7)
    assert group.freeze(True)
    place = parent / "s"
    written = {file.name: file.read_text() for file in place.iterdir()}
    assert written == {
        "memory.max": "1000",
        "memory.swap.max": "0",
        "pids.max": "20",
        "cpu.max": "150000 100000",
        "cgroup.procs": "7",
        "cgroup.freeze": "1",
    }
    (place / "memory.events").write_text("low 0\nmax 9\noom 3\noom_kill 2\n")
    (place / "cpu.stat").write_text("usage_usec 9\nthrottled_usec 2500000\n")
    assert (group.memory_kills(), group.throttled_s()) == (2, 2.5)


def test_limits_are_written_as_separate_hierarchies_have_them(tmp_path: Path) -> None:
    for controller in CONTROLLERS:
        (tmp_path / controller / "nightshift").mkdir(parents=True)
        (tmp_path / controller / "nightshift/cgroup.procs").touch()
    cgroups = Cgroups.find(tmp_path)
    group = cgroups.group("s")
    group.make(LIMITS)
    group.add(7)
    assert (tmp_path / "memory/nightshift/s/memory.limit_in_bytes").read_text() == "1000"
    assert (tmp_path / "cpu/nightshift/s/cpu.cfs_quota_us").read_text() == "150000"
    assert (tmp_path / "pids/nightshift/s/pids.max").read_text() == "20"
    assert all((tmp_path / one / "nightshift/s/cgroup.procs").read_text() == "7" for one in CONTROLLERS)


def test_a_machine_without_cgroups_limits_nothing(tmp_path: Path) -> None:
    group = Cgroups.find(tmp_path).group("s")
    group.make(LIMITS)
    group.add(7)
    assert (group.freeze(True), group.memory_kills(), group.throttled_s()) == (False, None, 0.0)


def test_a_real_unified_hierarchy_moves_freezes_and_is_swept() -> None:
    """Also where the controllers are elsewhere: the freezer belongs to the hierarchy itself."""
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        cgroups = Cgroups.find(root) if (root / "cgroup.controllers").exists() else None
        if cgroups is not None and "freezer" in cgroups.parents:
            break
    else:
        pytest.skip("no unified hierarchy that this process may use")
    name = f"local-test-{os.getpid()}"
    group = cgroups.group(name)
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            group.make(LIMITS)
            group.add(process.pid)
            assert group.freeze(True)
            state = cgroups.parents["freezer"] / name / "cgroup.events"
            while "frozen 1" not in state.read_text():
                pass
            process.kill()
            assert group.freeze(False)
        finally:
            process.kill()
            process.wait()
            group.remove()
    assert not (cgroups.parents["freezer"] / name).exists()
