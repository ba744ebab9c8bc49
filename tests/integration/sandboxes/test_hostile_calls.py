"""Commands that attack the record of calls, on both drivers: a call that had its effect is not run again."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from tests.support.e2b_server import E2BServer
from tests.support.waiting import eventually

from nightshift.sandboxes.agent.journal import Journal
from nightshift.sandboxes.errors import SandboxGone, SandboxUnavailable
from nightshift.sandboxes.local.disks import Disks, NoDisks
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import SandboxLimits
from nightshift.sandboxes.port import CallSpec, Sandbox, SandboxDriver

ATTACKS = {
    "remove": "rm -rf ~/.nightshift",
    "remove_outputs": "rm -rf ~/.nightshift/calls",
    "remove_files": "find ~/.nightshift -type f -delete",
    "remove_home": "cd /; rm -rf ~/.[!.]* ~/*",
    "empty": "find ~/.nightshift -type f -exec truncate -s 0 {} +",
    "move": "mv ~/.nightshift ~/elsewhere",
    "move_and_make": "mv ~/.nightshift ~/elsewhere; mkdir -p ~/.nightshift/calls",
    "copy_in_its_place": "cp -a ~/.nightshift /tmp/c; rm -rf ~/.nightshift; ln -s /tmp/c ~/.nightshift",
    "older_copy": "rm -rf ~/.nightshift; cp -a /tmp/backup ~/.nightshift",
    "symlink_to_nothing": "rm -rf ~/.nightshift; ln -s /nowhere ~/.nightshift",
    "file": "rm -rf ~/.nightshift; echo > ~/.nightshift",
    "pipes": "for d in ~/.nightshift*/calls/*; do rm -f $d/out $d/err; mkfifo $d/out $d/err; done",
    "outputs": "rm -rf ~/.nightshift-output; echo > ~/.nightshift-output",
    "forbid": "chmod -R 000 ~/.nightshift*",
    "kill_parent": "kill -9 $PPID",
    "kill_all": "kill -9 -1",
    "process_files": "rm -rf ~/.nightshift; for f in /proc/[0-9]*/fd/*; do : > $f; done 2>/dev/null",
}


_NUMBERS = count()


def call(number: int, command: str) -> CallSpec:
    return CallSpec(f"b/{number}/0", ["bash", "-c", command], timeout_s=30)


async def ended(driver: SandboxDriver, sandbox_id: str, spec: CallSpec) -> bool:
    """Whether the call has ended, or the sandbox counts as lost."""
    try:
        sandbox = await driver.connect(sandbox_id)
        return (await sandbox.wait_call(spec.call_id, wait_s=1)).state != "running"
    except SandboxGone:
        return True
    except SandboxUnavailable:
        return False


@pytest.mark.parametrize("attack", ATTACKS)
async def test_no_attack_makes_a_call_run_twice(
    driver: SandboxDriver, again: Callable[[], SandboxDriver], request: pytest.FixtureRequest, attack: str
) -> None:
    sandbox = await driver.create("b", generation=0)
    backup = call(1, "cp -a ~/.nightshift /tmp/backup")
    await sandbox.start_call(backup)
    await eventually(lambda: ended(driver, sandbox.id, backup))
    hostile = call(2, f"echo x >> /tmp/effect; {ATTACKS[attack]}")
    with contextlib.suppress(SandboxUnavailable):  # the attack may end what answers
        await sandbox.start_call(hostile)
    await eventually(lambda: ended(driver, sandbox.id, hostile))

    async def asked_again() -> bool:
        """As the same gateway does after an error, and another after a kill between effect and result."""
        for connect in (as_before, again().connect):
            try:
                status = await (await connect(sandbox.id)).start_call(hostile)
                assert status.state in ("finished", "died")
            except SandboxGone:
                assert driver.name == "e2b", "in a local sandbox the record is out of reach"
            except SandboxUnavailable:
                if connect != as_before:
                    return False
        return True

    async def as_before(_: str) -> Sandbox:
        return sandbox

    for _ in range(3):
        await eventually(asked_again)
    if driver.name == "e2b":
        server: E2BServer = request.getfixturevalue("e2b_server")
        assert await server.run(sandbox.id, "cat /tmp/effect") == "x\n"
    else:
        assert await output(sandbox, "cat /tmp/effect") == b"x\n"
        assert await output(sandbox, "pwd") == b"/home/user/workspace\n", "the sandbox goes on"


async def output(sandbox: Sandbox, command: str) -> bytes:
    spec = call(1000 + next(_NUMBERS), command)
    await sandbox.start_call(spec)
    await sandbox.wait_call(spec.call_id, wait_s=20)
    return await sandbox.read_output(spec.call_id, "out")


async def test_a_stopped_supervisor_can_still_be_ended(driver: SandboxDriver) -> None:
    sandbox = await driver.create("b", generation=0)
    stops = call(1, "echo x >> began; kill -STOP $PPID; sleep 60")
    await sandbox.start_call(stops)
    await eventually(lambda: sandbox.stat("began"))
    assert (await sandbox.stop_call(stops.call_id)).stopped


async def test_no_command_can_open_the_files_of_the_agent(local: LocalDriver) -> None:
    sandbox = await local.create("b", generation=0)
    script = "ls -l /proc/[0-9]*/fd 2>&1 | grep -c -e memfd -e journal; cat /proc/1/mem /proc/1/environ 2>&1 | wc -c"
    found = (await output(sandbox, script)).split()
    assert found[0] == b"0"


@pytest.fixture
async def small_disk(tmp_path: Path) -> AsyncIterator[Path]:
    """A directory on a filesystem of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o755)
    mount = shutil.which("mount") or "mount"
    done = await asyncio.to_thread(
        subprocess.run, [mount, "-t", "tmpfs", "-o", "size=24m,mode=755", "none", str(disk)], check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting a small filesystem needs root")
    yield disk
    await asyncio.to_thread(subprocess.run, ["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_neither_repeats_a_call_nor_ends_the_build(local: LocalDriver) -> None:
    limits = SandboxLimits(disk_bytes=64 * 1024**2)
    driver = LocalDriver(replace(local._settings, limits=limits))
    try:
        Disks.prepare(limits.disk())
    except NoDisks as error:
        pytest.skip(str(error))
    sandbox = await driver.create("b", generation=0)
    fill = call(1, "echo x >> /tmp/effect; cat /dev/zero > fill")
    await sandbox.start_call(fill)
    await eventually(lambda: ended(driver, sandbox.id, fill), timeout=30)
    again = await driver.connect(sandbox.id)
    assert (await again.start_call(fill)).state == "finished"
    clear = call(2, "rm fill")
    await again.start_call(clear)
    assert (await again.wait_call(clear.call_id, wait_s=20)).exit_code == 0
    assert (await output(again, "wc -l < /tmp/effect")).strip() == b"1"


async def test_the_journal_has_room_on_a_full_disk(small_disk: Path) -> None:
    journal = Journal(str(small_disk / "journal"))
    journal.create("b/0/s")
    with contextlib.suppress(OSError), (small_disk / "fill").open("wb") as fill:
        while True:
            fill.write(b"x" * 65536)
    for number in range(100):
        journal.add(f"b/{number}/0", "began", {})
        assert journal.find(f"b/{number}/0", "began") == {}
