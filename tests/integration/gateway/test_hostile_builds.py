"""A gateway killed between effect and result, while the command attacks the record of calls: one effect, one result."""

import asyncio

import pytest
from tests.integration.sandboxes.conftest import again, e2b_driver, e2b_server, local  # noqa: F401 - fixtures
from tests.integration.sandboxes.test_hostile_calls import output
from tests.support.e2b_server import E2BServer
from tests.support.gateway_world import World, soon
from tests.support.waiting import eventually

from nightshift.contracts.events.sandbox import SandboxLost
from nightshift.sandboxes.port import SandboxDriver


@pytest.fixture
async def hostile(again: object) -> World:  # noqa: F811
    world = World(again())  # type: ignore[operator]
    await world.accept()
    return world


@pytest.mark.parametrize(
    "attack", ["rm -rf ~/.nightshift", "chmod -R 000 ~/.nightshift", "mv ~/.nightshift ~/x", "true"]
)
async def test_a_killed_gateway_and_a_lost_record_repeat_no_effect(
    hostile: World, request: pytest.FixtureRequest, attack: str
) -> None:
    world = hostile
    await world.bash("echo made > made")
    await world.checkpoint()
    await world.save("pre_sleep")  # the newest snapshot is one at rest, as after a wake
    sandbox = Inside(world.driver, await world.box_id(), request)
    [call] = await world.ask(("bash", {"command": f"echo x >> /tmp/effect; {attack}; sleep 1"}))
    working = asyncio.create_task(world.gateway("g1", lease_s=0.6).work(world.build_id))
    await eventually(sandbox.effect)
    working.cancel()  # the process dies: nothing of it reaches the log
    await asyncio.gather(working, return_exceptions=True)

    second = world.gateway("g2", lease_s=0.6)

    async def answered() -> bool:
        await second.work(world.build_id)
        return call in await world.results()

    await soon(eventually(answered, timeout=20), 40)
    lost = [event for event in await world.events() if isinstance(event, SandboxLost)]
    assert (await world.results())[call].error_kind == ("sandbox_lost" if lost else None)
    if lost:
        assert world.driver.name == "e2b"
        assert not await sandbox.alive(), "nothing of it runs on"
    else:
        assert await sandbox.effect() == "x\n"
    after = await world.bash("cat made; wc -l < /tmp/effect")
    assert after.output.startswith("made"), "the workspace is there"
    if lost:
        assert "No such file" in after.output, "the call was not run again in the new sandbox"


class Inside:
    """A way into the sandbox that needs no record of the driver's."""

    def __init__(self, driver: SandboxDriver, sandbox_id: str, request: pytest.FixtureRequest) -> None:
        self._driver, self._id = driver, sandbox_id
        self._server: E2BServer | None = None
        if driver.name == "e2b":
            self._server = request.getfixturevalue("e2b_server")

    async def effect(self) -> str:
        """Return what the calls wrote, empty before the first."""
        read = "cat /tmp/effect 2>/dev/null || true"
        if self._server is not None:
            return await self._server.run(self._id, read)
        return (await output(await self._driver.connect(self._id), read)).decode()

    async def alive(self) -> bool:
        """True while the sandbox exists."""
        if self._server is not None:
            return self._id in self._server.boxes
        return await (await self._driver.connect(self._id)).alive()
