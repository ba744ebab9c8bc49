"""Both drivers, each over a directory of this test's own; everything started is ended afterwards."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.e2b_server import E2BServer

from nightshift.sandboxes.adapters.e2b import E2BDriver, E2BOptions
from nightshift.sandboxes.local.driver import LocalDriver, close_all
from nightshift.sandboxes.local.settings import LocalSettings
from nightshift.sandboxes.port import SandboxDriver


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalDriver]:
    yield LocalDriver(LocalSettings(tmp_path / "sandboxes"))
    await asyncio.to_thread(close_all, tmp_path / "sandboxes")


@pytest.fixture
async def e2b_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[E2BServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    async with E2BServer(tmp_path / "e2b") as server:
        yield server


def e2b_driver(server: E2BServer, **more: Any) -> E2BDriver:
    return E2BDriver(
        E2BOptions(api_key="e2b_" + "0" * 40, api_url=server.url, sandbox_url=server.url, **more)
    )


@pytest.fixture(params=["local", "e2b"])
def again(request: pytest.FixtureRequest) -> Callable[[], SandboxDriver]:
    """Makes drivers that see the same sandboxes: another process, in effect."""
    if request.param == "local":
        local: LocalDriver = request.getfixturevalue("local")
        return lambda: LocalDriver(local._settings)
    server: E2BServer = request.getfixturevalue("e2b_server")
    return lambda: e2b_driver(server)


@pytest.fixture
def driver(again: Callable[[], SandboxDriver]) -> SandboxDriver:
    return again()
