"""Deaths between any two steps of a call: it begins at most once, and a call that never began can begin."""

import asyncio
import sys

import pytest
from tests.integration.sandboxes.conftest import e2b_driver
from tests.support.e2b_server import E2BServer
from tests.support.waiting import eventually

from nightshift.sandboxes.agent.calls import Calls
from nightshift.sandboxes.agent.journal import Journal
from nightshift.sandboxes.errors import SandboxGone
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.port import CallSpec, Sandbox

SPEC = CallSpec("b/1/0", ["bash", "-c", "echo x >> effect"])


async def effect(sandbox: Sandbox) -> bytes:
    return await sandbox.read_file("effect") if await sandbox.stat("effect") else b""


@pytest.fixture
async def sandbox(e2b_server: E2BServer) -> Sandbox:
    """At E2B the journal is a file, so a test can put into it what a supervisor that died would have left."""
    return await e2b_driver(e2b_server).create("b", generation=0)


@pytest.fixture
def journal(e2b_server: E2BServer, sandbox: Sandbox) -> Journal:
    return Journal(str(e2b_server.boxes[sandbox.id].home / ".nightshift" / "journal"))


async def test_a_call_without_a_record_is_run(sandbox: Sandbox, journal: Journal) -> None:
    journal.add("b/2/0", "began", {})
    journal.add("b/1/00", "began", {})
    assert (await sandbox.call_status("b/1/0")).state == "unknown"
    await sandbox.start_call(SPEC)
    assert (await sandbox.wait_call("b/1/0", wait_s=20)).state == "finished"
    assert await effect(sandbox) == b"x\n"


async def test_a_call_that_began_and_has_no_end_is_not_run_again(sandbox: Sandbox, journal: Journal) -> None:
    journal.add("b/1/0", "began", {})
    assert (await sandbox.start_call(SPEC)).state == "died"
    assert (await sandbox.call_status("b/1/0")).state == "died"
    assert await effect(sandbox) == b""


async def test_no_command_can_end_what_watches_a_call(local: LocalDriver) -> None:
    sandbox = await local.create("b", generation=0)
    await sandbox.start_call(
        CallSpec("b/1/0", ["bash", "-c", "echo x >> effect; echo $PPID > parent; sleep 60"], timeout_s=None)
    )
    await eventually(lambda: sandbox.stat("parent"))
    killed = CallSpec("b/2/0", ["bash", "-c", "kill -9 $(cat parent); kill -9 -1"])
    assert (await sandbox.run_call(killed, wait_s=20)).state == "finished"
    ended = await sandbox.wait_call("b/1/0", wait_s=20)
    assert (ended.state, ended.exit_code) == ("finished", 137)
    assert await effect(sandbox) == b"x\n"


async def test_a_half_written_end_is_no_end(
    sandbox: Sandbox, journal: Journal, e2b_server: E2BServer
) -> None:
    await sandbox.start_call(SPEC)
    await sandbox.wait_call("b/1/0", wait_s=20)
    path = e2b_server.boxes[sandbox.id].home / ".nightshift" / "journal"
    whole = path.read_bytes().rstrip(b"\0")
    calls = Calls("", journal)
    for end in range(whole.index(b"b/1/0 exit"), len(whole) - 1):
        with path.open("r+b") as file:  # the same inode, as after a supervisor that died while it wrote
            file.write(whole[:end].ljust(len(whole), b"\0"))
        assert calls.wait("b/1/0", 0)["state"] == "died", whole[:end]
        journal.add("b/3/0", "began", {})
        assert journal.find("b/3/0", "began") == {}, "the next record is whole"


async def test_a_driver_process_that_is_killed_takes_no_sandbox_with_it(local: LocalDriver) -> None:
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _GATEWAY, str(local._settings.state_dir)
    )
    try:
        await eventually(lambda: _with_call(local), timeout=30)
    finally:
        gateway.kill()
        await gateway.wait()
    [info] = await local.list()
    sandbox = await local.connect(info.sandbox_id)
    assert (await sandbox.call_status("b/1/0")).state == "running"
    await sandbox.write_file("go", b"")
    assert (await sandbox.wait_call("b/1/0", wait_s=20)).exit_code == 0


async def _with_call(local: LocalDriver) -> bool:
    for info in await local.list():
        try:
            sandbox = await local.connect(info.sandbox_id)
        except SandboxGone:  # it is listed from the start of its creation
            return False
        return (await sandbox.call_status("b/1/0")).state == "running"
    return False


_GATEWAY = """
import asyncio, sys, pathlib
from nightshift.sandboxes.errors import SandboxGone
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.port import CallSpec
async def main():
    sandbox = await LocalDriver(LocalSettings(pathlib.Path(sys.argv[1]))).create("b", generation=0)
    wait = ["bash", "-c", "while [ ! -e go ]; do sleep 0.02; done"]
    await sandbox.start_call(CallSpec("b/1/0", wait, timeout_s=None))
    await asyncio.sleep(600)
asyncio.run(main())
"""
