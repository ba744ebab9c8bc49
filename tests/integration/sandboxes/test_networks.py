"""Gateways in containers of their own: what one of them serves on its loopback, another cannot reach."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys

import pytest

from nightshift.sandboxes.errors import PortRefused
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.process import HostProcess
from nightshift.sandboxes.port import CallSpec
from nightshift.sandboxes.settings import SandboxSettings, make_driver

_SERVE = "python3 -m http.server 8000 --bind 127.0.0.1 >/dev/null 2>&1 &"
_ELSEWHERE = """
import asyncio, sys
from pathlib import Path
from nightshift.sandboxes.errors import PortRefused
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.local.settings import LocalSettings
async def main():
    sandbox = await LocalDriver(LocalSettings(Path(sys.argv[1]))).connect(sys.argv[2])
    print(await sandbox.open_port(8000))
asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a network namespace without a user namespace")
async def test_a_preview_of_another_network_is_started_again(local: LocalDriver, tmp_path, eventually):
    sandbox = await local.create("b1", generation=1)
    await sandbox.start_call(CallSpec("b1/1/0", ["bash", "-c", _SERVE]))
    await eventually(lambda: opened(sandbox), timeout=20)
    record = tmp_path / "sandboxes" / sandbox.id / "previews.json"
    first = json.loads(record.read_text())["pid"]
    command = [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "sandboxes"), sandbox.id]
    done = await asyncio.to_thread(
        subprocess.run,
        ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *command],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("http://127.0.0.1:")
    second = json.loads(record.read_text())["pid"]
    assert second != first


async def opened(sandbox):
    """Returns the preview's address, or None while nothing listens in the sandbox."""
    with contextlib.suppress(PortRefused):
        return await sandbox.open_port(8000)


def test_a_process_of_this_network_shares_it():
    assert HostProcess.current().shares_network()


async def test_a_service_that_creates_no_sandbox_starts_no_probe(tmp_path, monkeypatch):
    async def refuse(_driver: LocalDriver) -> None:
        raise AssertionError("a probe was started")

    monkeypatch.setattr(LocalDriver, "probe", refuse)
    settings = SandboxSettings.load(s3_bucket="b", home=tmp_path, sandbox_driver="local")
    assert (await make_driver(settings, creates=False)).name == "local"
    with pytest.raises(AssertionError, match="a probe was started"):
        await make_driver(settings)
