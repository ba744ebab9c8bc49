"""Sandboxes that a killed process left are ended while the stack runs; those of builds are not."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from tests.integration.sandboxes.conftest import e2b_driver, e2b_server  # noqa: F401 - a fixture
from tests.support.e2b_server import E2BServer
from tests.support.gateway_world import World
from tests.support.waiting import eventually

from nightshift.sandboxes.adapters.e2b import E2BDriver
from nightshift.sandboxes.client import AgentSandbox
from nightshift.sandboxes.local.driver import LocalDriver
from nightshift.sandboxes.port import SandboxDriver, SandboxInfo


class Killed(BaseException):
    """The process ends here."""


async def dies(*_: Any, **__: Any) -> Any:
    raise Killed


async def listed(driver: SandboxDriver, count: int) -> list[SandboxInfo]:
    found = await driver.list()
    return found if len(found) == count else []


async def test_orphans_are_ended_and_the_sandboxes_of_builds_are_not(world: World) -> None:
    await world.bash("true")
    orphan = await world.driver.create("nobody", generation=0)
    await world.leases.acquire("sandbox/nobody", "busy", ttl=60)
    assert await world.sweeper().sweep() == 0, "another gateway may be about to record it"
    await world.leases.release(await world.leases.acquire("sandbox/nobody", "busy", ttl=60))
    assert await world.sweeper().sweep() == 1
    assert [info.sandbox_id for info in await world.driver.list()] == [await world.box_id()]
    assert not await orphan.alive()


async def test_a_half_made_local_sandbox_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.bash("true")
    with monkeypatch.context() as patched:  # killed between the start and the record, without any clean-up
        patched.setattr(AgentSandbox, "hello", dies)
        patched.setattr(LocalDriver, "_destroy", dies)
        with pytest.raises(Killed):
            await world.driver.create("half", generation=0)
    await eventually(lambda: listed(world.driver, 2))
    assert await world.sweeper().sweep() == 1
    assert [info.sandbox_id for info in await world.driver.list()] == [await world.box_id()]


async def test_an_abandoned_probe_is_ended_after_a_grace(
    driver: LocalDriver, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(AgentSandbox, "hello", dies)
        patched.setattr(LocalDriver, "_destroy", dies)
        with pytest.raises(Killed):
            await driver.probe()
    [probe] = await eventually(lambda: listed(driver, 1))
    assert "build" not in probe.metadata
    assert await world.sweeper().sweep() == 0, "its process may be at it"
    age(driver, probe.sandbox_id)
    assert await world.sweeper().sweep() == 1
    assert await driver.list() == []


async def test_a_directory_without_a_record_is_removed(driver: LocalDriver) -> None:
    empty = driver._settings.state_dir / "local-0123456789abcdef"
    empty.mkdir(parents=True)
    assert await driver.list() == []
    assert empty.exists(), "somebody may be about to write its record"
    os.utime(empty, (0, time.time() - 1000))
    await driver.list()
    assert not empty.exists()


def age(driver: LocalDriver, sandbox_id: str) -> None:
    folder: Path = driver._settings.state_dir / sandbox_id
    for path in (folder, folder / "starting.json"):
        os.utime(path, (0, time.time() - 1000))


async def test_a_half_made_sandbox_at_e2b_is_ended(
    e2b_server: E2BServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver: SandboxDriver = e2b_driver(e2b_server)
    with monkeypatch.context() as patched:
        patched.setattr(E2BDriver, "_install", dies)
        with pytest.raises(Killed):
            await driver.create("half", generation=0)
    assert len(await driver.list()) == 1
    assert await World(driver).sweeper().sweep() == 1
    assert await driver.list() == []
