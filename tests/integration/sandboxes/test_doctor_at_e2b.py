"""`doctor` asks E2B whether it accepts the key, and counts the sandboxes there."""

from pathlib import Path

import pytest
from tests.support.e2b_server import E2BServer

from nightshift.cli.diagnosis import check_sandbox
from nightshift.eventlog.errors import NightshiftError
from nightshift.sandboxes.adapters.e2b import E2BDriver, E2BOptions


async def test_doctor_asks_e2b(
    e2b_server: E2BServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "e2b_" + "0" * 40
    monkeypatch.setenv("E2B_API_KEY", key)
    monkeypatch.setenv("E2B_API_URL", e2b_server.url)
    monkeypatch.setenv("E2B_SANDBOX_URL", e2b_server.url)
    assert "none open" in (await check_sandbox(tmp_path)).detail
    options = E2BOptions(api_key=key, api_url=e2b_server.url, sandbox_url=e2b_server.url)
    sandbox = await E2BDriver(options).create("b1", generation=0)
    found = await check_sandbox(tmp_path)
    assert (found.status, "1 running" in found.detail) == ("pass", True)
    await E2BDriver(options).kill(sandbox.id)
    e2b_server.fail("list", *[401] * 4)
    with pytest.raises(NightshiftError):
        await check_sandbox(tmp_path)
