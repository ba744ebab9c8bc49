"""A paused sandbox that the provider resumes: in its newest state, in an older one, or not at all."""

import pytest
from tests.integration.sandboxes.conftest import e2b_driver, e2b_server  # noqa: F401 - a fixture
from tests.support.e2b_server import E2BServer
from tests.support.gateway_world import World

from nightshift.contracts.events.sandbox import SandboxLost, SandboxRestored


@pytest.fixture
async def world(e2b_server: E2BServer) -> World:  # noqa: F811
    made = World(e2b_driver(e2b_server))
    await made.accept()
    return made


async def paused_over_a_night(world: World, server: E2BServer, *, forgets: bool) -> None:
    """A build with two commands, whose pre-sleep snapshot failed after a checkpoint's snapshot was saved."""
    await world.bash("echo one > one")
    if forgets:
        await server.forget_changes(await world.box_id())
    await world.bash("echo two > two")
    await world.checkpoint()
    await world.save("checkpoint")
    await world.sleep()
    await world.save_fails("pre_sleep")
    await world.gateway().work(world.build_id)
    assert (await world.types())[-1] == "sandbox.paused"
    await world.wake()


async def test_a_resume_in_the_newest_state_goes_on(world: World, e2b_server: E2BServer) -> None:  # noqa: F811
    await paused_over_a_night(world, e2b_server, forgets=False)
    assert (await world.bash("cat one two")).output.startswith("one\ntwo\n")
    assert "sandbox.lost" not in await world.types()


async def test_a_resume_in_an_older_state_is_healed(world: World, e2b_server: E2BServer) -> None:  # noqa: F811
    await paused_over_a_night(world, e2b_server, forgets=True)
    assert (await world.bash("cat one two")).output.startswith("one\ntwo\n")
    events = await world.events()
    [lost] = [event for event in events if isinstance(event, SandboxLost)]
    assert "older state" in str(lost.detail)
    assert [event.lost for event in events if isinstance(event, SandboxRestored)] == [()]
