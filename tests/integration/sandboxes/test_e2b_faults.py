"""What a sandbox at E2B does to the driver: shell profiles, a full disk, its lifetime, refusals that do not pass."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.sandboxes.conftest import e2b_driver
from tests.support.e2b_server import E2BServer
from tests.support.waiting import eventually

from nightshift.sandboxes.errors import ProviderRefused, SandboxGone
from nightshift.sandboxes.port import CallSpec, CallStatus, Sandbox

_PROFILES = {
    "speaks": "echo Welcome back",
    "leaves": "exit 3",
    "becomes_another_shell": "exec sh",
    "fails": "set -e; false",
    "moves": "cd /; export HOME=/tmp; alias python3=false; python3() { false; }",
}


async def ran(sandbox: Sandbox, call_id: str, command: str) -> tuple[CallStatus, bytes]:
    """Run a command. Returns its end, and its output with the errors behind."""
    await sandbox.start_call(CallSpec(call_id, ["bash", "-c", command]))
    status = await sandbox.wait_call(call_id, wait_s=30)
    out = await sandbox.read_output(call_id, "out")
    return status, out + await sandbox.read_output(call_id, "err")


async def test_no_shell_profile_disturbs_later_calls(e2b_server: E2BServer) -> None:
    driver = e2b_driver(e2b_server)
    sandbox = await driver.create("b1", generation=0)
    for turn, (name, profile) in enumerate(_PROFILES.items()):
        files = "~/.profile ~/.bash_profile ~/.bashrc" if turn % 2 else "~/.profile ~/.bashrc"
        await ran(sandbox, f"b1/{turn}/0", f"tee {files} <<'END'\n{profile}\nEND")
        again = await driver.connect(sandbox.id)
        status, output = await ran(again, f"b1/{turn}/1", "echo $HOME; pwd")
        assert (status.exit_code, output) == (0, b"/home/user\n/home/user/workspace\n"), name


@pytest.fixture
async def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[E2BServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    async with E2BServer(tmp_path / "e2b", disk_bytes=8 << 20) as server:
        yield server


async def test_a_full_disk_is_a_result_and_can_be_emptied(small: E2BServer) -> None:
    sandbox = await e2b_driver(small).create("b1", generation=0)
    status, output = await ran(sandbox, "b1/1/0", "cat /dev/zero > fill")
    assert status.exit_code == 1
    assert b"No space left on device" in output
    for turn in range(2, 6):  # each call needs a record, though nothing fits on the disk
        status, output = await ran(sandbox, f"b1/{turn}/0", "echo more > more; echo told")
        assert (status.state, status.exit_code) == ("finished", 0)
    long = await ran(sandbox, "b1/6/0", "true " + "x" * 150_000)
    assert long[0].exit_code == 0
    assert (await ran(sandbox, "b1/7/0", "rm fill more"))[0].exit_code == 0
    await sandbox.write_file("works", b"again")


async def test_a_lifetime_above_the_plan_is_refused_at_once(tmp_path: Path) -> None:
    async with E2BServer(tmp_path / "e2b", max_lifetime_s=3600) as server:
        sandbox = await e2b_driver(server).create("b1", generation=0)
        longer = e2b_driver(server, lifetime_s=7200)
        with pytest.raises(ProviderRefused, match="greater than 1 hours"):
            await longer.create("b2", generation=0)
        with pytest.raises(ProviderRefused, match="greater than 1 hours"):
            await longer.connect(sandbox.id)


async def test_an_unknown_template_is_refused_by_name(e2b_server: E2BServer) -> None:
    with pytest.raises(ProviderRefused, match="web-2"):
        await e2b_driver(e2b_server, template="web-2").create("b1", generation=0)


async def test_a_template_without_python_is_refused_by_name(e2b_server: E2BServer) -> None:
    with pytest.raises(ProviderRefused, match=r"no python3 \(no-python\)"):
        await e2b_driver(e2b_server, template="no-python").create("b1", generation=0)
    assert e2b_server.boxes == {}, "nothing is paid for"


async def test_an_id_of_another_form_is_a_lost_sandbox(e2b_server: E2BServer) -> None:
    with pytest.raises(SandboxGone):
        await e2b_driver(e2b_server).connect("no-such-sandbox")


async def test_a_long_wait_keeps_the_sandbox_alive(e2b_server: E2BServer) -> None:
    driver = e2b_driver(e2b_server, lifetime_s=2)
    sandbox = await driver.create("b1", generation=0)
    status, output = await ran(sandbox, "b1/1/0", "sleep 5; echo done")
    assert (status.exit_code, output) == (0, b"done\n")


async def test_a_sandbox_left_alone_ends_with_its_lifetime(e2b_server: E2BServer) -> None:
    driver = e2b_driver(e2b_server, lifetime_s=1)
    sandbox = await driver.create("b1", generation=0)
    await eventually(lambda: not e2b_server.boxes)
    with pytest.raises(SandboxGone):
        await driver.connect(sandbox.id)
