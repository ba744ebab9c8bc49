"""The windows of the call wrapper: whoever dies where, a call begins at most once, and what never began can begin."""

import asyncio
import os
import sys
from pathlib import Path

from tests.support.waiting import eventually

from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.port import CallSpec, Sandbox

SPEC = CallSpec("b/1/0", ["bash", "-c", "echo x >> effect"])


async def make(local: LocalDriver) -> tuple[Sandbox, Path]:
    sandbox = await local.create("b", generation=0)
    return sandbox, local._place(sandbox.id).home / ".nightshift" / "calls" / "b~1~0"


async def effect(sandbox: Sandbox) -> bytes:
    return await sandbox.read_file("effect") if await sandbox.stat("effect") else b""


def own(folder: Path, *names: str) -> None:
    """Leave what a wrapper that died would have left, owned as it would be."""
    owner = folder.parent.stat()
    folder.mkdir()
    for name in names:
        (folder / name).write_text('{"pid": 999999, "at": 0}' if name == "began" else "")
    for path in (folder, *folder.iterdir()):
        os.chown(path, owner.st_uid, owner.st_gid)


async def test_a_claim_that_never_began_is_run(local: LocalDriver) -> None:
    sandbox, folder = await make(local)
    own(folder)
    assert (await sandbox.call_status("b/1/0")).state == "unknown"
    await sandbox.start_call(SPEC)
    assert (await sandbox.wait_call("b/1/0", wait_s=20)).state == "finished"
    assert await effect(sandbox) == b"x\n"


async def test_a_claim_with_a_lock_nobody_holds_is_run(local: LocalDriver) -> None:
    sandbox, folder = await make(local)
    own(folder, "lock")
    assert (await sandbox.call_status("b/1/0")).state == "unknown"
    await sandbox.start_call(SPEC)
    assert (await sandbox.wait_call("b/1/0", wait_s=20)).state == "finished"
    assert await effect(sandbox) == b"x\n"


async def test_a_call_that_began_and_has_no_end_is_not_run_again(local: LocalDriver) -> None:
    sandbox, folder = await make(local)
    own(folder, "lock", "began")
    assert (await sandbox.start_call(SPEC)).state == "died"
    assert (await sandbox.call_status("b/1/0")).state == "died"
    assert await effect(sandbox) == b""


async def test_a_keeper_that_is_killed_leaves_a_call_that_died(local: LocalDriver) -> None:
    sandbox, _ = await make(local)
    await sandbox.start_call(CallSpec("b/1/0", ["bash", "-c", "echo x >> effect; sleep 60"], timeout_s=None))
    await eventually(lambda: effect(sandbox))
    kill = "kill -9 $(tr -dc '0-9,' < ~/.nightshift/calls/b~1~0/began | cut -d, -f1)"
    await sandbox.start_call(CallSpec("b/2/0", ["bash", "-c", kill]))
    assert (await sandbox.wait_call("b/1/0", wait_s=20)).state == "died"
    assert (await sandbox.start_call(SPEC)).state == "died"
    assert await effect(sandbox) == b"x\n"


async def test_a_half_written_end_is_no_end(local: LocalDriver) -> None:
    sandbox, folder = await make(local)
    await sandbox.start_call(SPEC)
    await sandbox.wait_call("b/1/0", wait_s=20)
    whole = (folder / "exit").read_text()
    for cut in range(len(whole)):
        (folder / "exit").write_text(whole[:cut])
        assert (await sandbox.call_status("b/1/0")).state == "died", whole[:cut]


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
        sandbox = await local.connect(info.sandbox_id)
        return (await sandbox.call_status("b/1/0")).state == "running"
    return False


_GATEWAY = """
import asyncio, sys, pathlib
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
