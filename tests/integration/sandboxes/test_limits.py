"""The limits of a whole sandbox: its disk, its files, its processes, its memory. What is full can be emptied."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.gateway_world import World
from tests.support.waiting import eventually

from nightshift.sandboxes.errors import SandboxUnavailable
from nightshift.sandboxes.local import driver as local_driver
from nightshift.sandboxes.local.cgroups import Cgroups
from nightshift.sandboxes.local.disks import Disks, NoDisks
from nightshift.sandboxes.local.driver import LocalDriver, close_all
from nightshift.sandboxes.local.isolation import isolation
from nightshift.sandboxes.local.settings import LocalSettings, SandboxLimits

LIMITS = SandboxLimits(disk_bytes=64 * 1024**2, files=10_000, processes=60, memory_bytes=256 * 1024**2)


@pytest.fixture
def driver(tmp_path: Path) -> LocalDriver:
    return LocalDriver(LocalSettings(tmp_path / "sandboxes", limits=LIMITS))


@pytest.fixture
async def world(driver: LocalDriver) -> AsyncIterator[World]:
    try:
        Disks.prepare(LIMITS.disk())
    except NoDisks as error:
        pytest.skip(str(error))
    one = World(driver)
    await one.accept()
    yield one
    await asyncio.to_thread(close_all, driver._settings.state_dir)


def images() -> str:
    return subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


async def test_a_full_disk_is_told_and_can_be_emptied(world: World, driver: LocalDriver) -> None:
    full = await world.bash("echo kept > kept; cat /dev/zero > fill")
    assert "No space left on device" in full.output
    assert "[the disk is full" in full.output
    [refused] = await world.run(("write_file", {"file_path": "new", "content": "x" * 3_000_000}))
    assert "the disk of the sandbox is full" in refused.output
    emptied = await world.bash("rm fill; cat kept; echo more > more && cat more")
    assert emptied.output.startswith("kept\nmore\n")
    image = driver._settings.state_dir / await world.box_id() / "home.ext4"
    await eventually(lambda: image.stat().st_blocks * 512 < 16 * 1024**2)  # the host has its room again


async def test_a_flood_of_files_is_told_and_can_be_emptied(world: World) -> None:
    flood = "import os\nfor n in range(200_000): os.close(os.open(f'f{n}', os.O_CREAT | os.O_WRONLY))"
    full = await world.bash(f"mkdir many; cd many; python3 -c {flood!r}".replace("\\n", "\n"))
    assert full.is_error
    assert "files that the disk can hold are used" in full.output
    assert (await world.bash("rm -r many; echo x > x; cat x")).output.startswith("x\n")
    floods = flood.replace("f{n}", "/tmp/f{n}")
    assert "No space left" in (await world.bash(f'python3 -c "{floods}"')).output, "/tmp is bounded too"


async def test_a_workspace_on_a_full_disk_is_saved_and_restored(world: World) -> None:
    await world.bash(
        "head -c 30M /dev/urandom > half; cat /dev/zero > fill; rm fill; cat /dev/zero > ../fill"
    )
    saved = await world.save("pre_sleep")
    await world.sleep()
    await world.gateway().work(world.build_id)
    await world.wake()
    assert (await world.bash("stat -c %s half; df --output=size . | tail -1")).output.startswith("31457280\n")
    assert saved.tree_digest in str(await world.events())


async def test_memory_and_process_limits_are_told(world: World, driver: LocalDriver) -> None:
    if "memory" not in driver._cgroups.parents:
        pytest.skip("no cgroups here")
    hungry = await world.bash(
        "for i in 1 2 3; do python3 -c 'import time; x=bytearray(120<<20); time.sleep(9)' & done; wait -n; pkill py"
    )
    assert "the memory limit was reached: all processes together may use 256 MiB" in hungry.output
    crowd = await world.bash("for i in $(seq 100); do sleep 60 & done; exit 1")
    assert "Resource temporarily unavailable" in crowd.output
    assert "and 60 may. Stop some" in crowd.output
    await world.bash("pkill sleep")
    plain = await world.bash("exit 9")
    assert plain.output == "[exit code 9]", "an ordinary failure met no limit"


async def test_the_disk_of_a_sandbox_ends_with_it(world: World, driver: LocalDriver) -> None:
    """Whoever ends it: its first process is killed while no gateway runs, as by the kernel."""
    await world.bash("echo x > x")
    sandbox_id = await world.box_id()
    assert sandbox_id in images()
    assert sandbox_id not in mounts(), "the host has no mount of it"
    directory = driver._directory(sandbox_id)
    directory.first().kill()
    await eventually(lambda: sandbox_id not in images())


async def test_no_sandbox_is_opened_on_a_host_without_room(
    driver: LocalDriver, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_driver, "_LEAST_ROOM", 2.0**40)
    with pytest.raises(SandboxUnavailable, match="MiB left for sandboxes"):
        await driver.create("b", generation=0)
    assert await driver.list() == []


def test_doctor_says_which_limits_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = isolation(Cgroups.find(tmp_path), LIMITS, as_root=False)
    assert [one.partition(":")[0] for one in bare.missing][1:5] == [
        f"no cgroup for {name}" for name in ("memory", "pids", "cpu", "freezer")
    ]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    fresh = SandboxLimits(disk_bytes=65 * 1024**2)
    assert any(
        "only root can mount a disk" in one for one in isolation(Cgroups.find(tmp_path), fresh).missing
    )
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    if os.geteuid() == 0:
        held = isolation(Cgroups.find(), LIMITS)
        assert any("ext4 image of 0.0625 GiB and 10,000 files" in one for one in held.holds)
