"""Fixtures of a gateway's world on a local sandbox driver; everything it started is ended afterwards."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.gateway_world import World

from nightshift.sandboxes.local.driver import LocalDriver, close_all
from nightshift.sandboxes.local.settings import LocalSettings


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[LocalDriver]:
    yield LocalDriver(LocalSettings(tmp_path / "sandboxes"))
    await asyncio.to_thread(close_all, tmp_path / "sandboxes")


@pytest.fixture
async def world(driver: LocalDriver) -> World:
    one = World(driver)
    await one.accept()
    return one
