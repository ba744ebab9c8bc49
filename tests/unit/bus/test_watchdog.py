"""A consumer that should make progress and makes none is seen; one with an excuse is not."""

import pytest

from nightshift.bus.kafka.watchdog import Watchdog
from nightshift.eventlog.errors import Fault, Unavailable


class Consumer:
    name = "group"

    def __init__(self) -> None:
        self.progress = 0
        self.excused = False
        self.left = 0
        self.error: Exception | None = None
        self.ended = False

    def check(self) -> None:
        if self.ended:
            raise Fault("coordination is over")

    async def behind(self) -> int:
        if self.error is not None:
            raise self.error
        return self.left


class World:
    def __init__(self, **more) -> None:
        self.now = 0.0
        self.consumer = Consumer()
        self.dog = Watchdog([self.consumer], limit_s=60, look_every_s=5, clock=lambda: self.now, **more)

    async def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            await self.dog.look()


async def test_behind_and_still_for_a_minute_fails():
    world = World()
    world.consumer.left = 3
    await world.pass_time(59)
    assert not world.dog.failed.is_set()
    await world.pass_time(6)
    assert world.dog.failed.is_set()


async def test_one_message_in_a_while_is_progress():
    world = World()
    world.consumer.left = 3
    for _ in range(10):
        await world.pass_time(50)
        world.consumer.progress += 1
    assert not world.dog.failed.is_set()


async def test_nothing_to_do_is_no_failure():
    world = World()
    await world.pass_time(300)
    assert not world.dog.failed.is_set()


@pytest.mark.parametrize("why", ["excused", "broker away", "database away"])
async def test_who_waits_with_reason_is_let_be(why):
    async def ground() -> bool:
        return why != "database away"

    world = World(ground=ground)
    world.consumer.left = 3
    world.consumer.excused = why == "excused"
    world.consumer.error = Unavailable("x") if why == "broker away" else None
    await world.pass_time(300)
    assert not world.dog.failed.is_set()


async def test_a_client_that_ended_by_itself_fails_at_once():
    world = World()
    world.consumer.ended = True
    await world.pass_time(1)
    assert world.dog.failed.is_set()
