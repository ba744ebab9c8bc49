"""The main job in sandboxes at a provider: `nightshift demo` against a local server of E2B's protocol."""

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.e2b_server import E2BServer
from tests.support.processes import nightshift

_SCENARIO = Path(__file__).with_name("scenario.yaml")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[E2BServer]:
    async with E2BServer(tmp_path / "provider") as server:
        yield server


@pytest.mark.long
async def test_it_sleeps_restores_and_answers_on_its_preview(provider: E2BServer, stack_folder: Path) -> None:
    home = stack_folder / "e2b" / "home"
    given = {
        "E2B_API_KEY": "anything",
        "E2B_API_URL": provider.url,
        "E2B_SANDBOX_URL": provider.url,
        "NO_PROXY": "127.0.0.1,localhost",
        "NIGHTSHIFT_BUDGET_DAY_SECONDS": "12",
    }
    try:
        ran = await asyncio.to_thread(
            nightshift,
            *("demo", "--json", "--keep", "--home", str(home), "--scenario", str(_SCENARIO)),
            env=given,
            timeout=100,
        )
        assert ran.returncode == 0, ran.stderr
        assert "sandbox  E2B" in ran.stderr.splitlines()[:3]

        *events, summary = (json.loads(line) for line in ran.stdout.splitlines())

        def of(type_: str) -> list[dict[str, Any]]:
            return [event["data"] for event in events if event["type"] == type_]

        assert summary["status"] == "ready"
        assert summary["sleeps"] >= 1
        opened = of("sandbox.opened")
        assert {one["driver"] for one in opened} == {"e2b"}
        assert len({one["sandbox_id"] for one in opened}) == provider.creates >= 2
        saved = {one["tree_digest"] for one in of("snapshot.saved") if one["reason"] == "pre_sleep"}
        restored = of("sandbox.restored")
        assert len(restored) == provider.creates - 1
        assert {one["tree_digest"] for one in restored} <= saved
        assert [one["lost"] for one in restored] == [[]] * len(restored)

        assert list(provider.boxes) == [summary["sandbox_id"]], "the sandbox of before the night still lives"
        assert summary["preview_url"].startswith(provider.url)
        assert "The tool library" in await asyncio.to_thread(_page, summary["preview_url"])
    finally:
        await asyncio.to_thread(nightshift, "down", "--home", str(home))


def _page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        page: str = answer.read().decode()
    return page
