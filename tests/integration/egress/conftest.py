"""The lab of the egress proxy, in a network namespace without a route out, and sandboxes behind a real proxy."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway_world import World

from nightshift.contracts.hosts import PUBLIC_REGISTRIES
from nightshift.sandboxes.egress.process import EgressProcess
from nightshift.sandboxes.egress.secret_store import SecretStore
from nightshift.sandboxes.local.driver import LocalDriver, close_all
from nightshift.sandboxes.local.settings import LocalSettings

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def ask() -> Iterator[Ask]:
    """Asks the lab one question (see `tests.support.egress_lab`). Skips where no network namespace can be made."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root, unshare and ip")
    if subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no network namespace")
    command = ["unshare", "-n", sys.executable, "-m", "tests.support.egress_lab"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as lab:  # type: ignore[call-overload]

        def ask(send: str | list[str], **question: Any) -> dict[str, Any]:
            lab.stdin.write(json.dumps({"send": send, **question}) + "\n")
            lab.stdin.flush()
            return dict(json.loads(lab.stdout.readline()))

        assert json.loads(lab.stdout.readline()) == {"ready": True}
        yield ask
        lab.stdin.close()
        lab.wait(10)


@pytest.fixture
async def egress(tmp_path: Path) -> AsyncIterator[EgressProcess]:
    async with EgressProcess(tmp_path / "egress", tmp_path / "secrets") as process:
        yield process


@pytest.fixture
async def world(tmp_path: Path, egress: EgressProcess) -> AsyncIterator[World]:
    driver = LocalDriver(LocalSettings(tmp_path / "sandboxes"), egress)
    yield World(driver, secrets=SecretStore(tmp_path / "secrets"), hosts=PUBLIC_REGISTRIES)
    await asyncio.to_thread(close_all, tmp_path / "sandboxes")
