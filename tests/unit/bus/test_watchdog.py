"""The watchdog sees a partition that makes no progress, and excuses one that waits for a reason."""

import pytest

from nightshift.bus.batch_intake import Progress
from nightshift.bus.kafka.watchdog import Watchdog
from nightshift.eventlog.errors import Fault, Unavailable


class Consumer:
    name = "group"

    def __init__(self) -> None:
        self.partitions = {0: Progress(0, False, False), 1: Progress(0, False, False)}
        self.left = {0: 0, 1: 0}
        self.error: Exception | None = None
        self.ended = False

    def check(self) -> None:
        if self.ended:
            raise Fault("coordination is over")

    async def unread(self, partitions):
        if self.error is not None:
            raise self.error
        return {each: self.left[each] for each in partitions}

    def settle(self, partition: int) -> None:
        self.partitions[partition] = self.partitions[partition]._replace(
            settled=self.partitions[partition].settled + 1
        )


class World:
    def __init__(self, **more) -> None:
        self.now = 0.0
        self.consumer = Consumer()
        self.dog = Watchdog([self.consumer], limit_s=60, look_every_s=5, clock=lambda: self.now, **more)

    async def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            await self.dog.look()


async def test_unread_messages_without_progress_fail_after_the_limit():
    world = World()
    world.consumer.left[0] = 3
    await world.pass_time(59)
    assert not world.dog.failed.is_set()
    await world.pass_time(7)
    assert world.dog.failed.is_set()


async def test_stuck_partition_is_seen_while_others_make_progress():
    world = World()
    world.consumer.left = {0: 3, 1: 3}
    for _ in range(70):
        await world.pass_time(1)
        world.consumer.settle(1)
    assert world.dog.failed.is_set()


async def test_handler_that_does_not_return_is_seen():
    """Its message is read, so that nothing is unread."""
    world = World()
    world.consumer.partitions[1] = Progress(5, waiting=False, busy=True)
    await world.pass_time(70)
    assert world.dog.failed.is_set()


async def test_one_message_in_a_while_is_progress():
    world = World()
    world.consumer.left[0] = 3
    for _ in range(10):
        await world.pass_time(50)
        world.consumer.settle(0)
    assert not world.dog.failed.is_set()


async def test_consumer_that_gets_no_partition_fails():
    world = World()
    world.consumer.partitions = {}
    await world.pass_time(70)
    assert world.dog.failed.is_set()


async def test_nothing_to_do_is_no_failure():
    world = World()
    await world.pass_time(300)
    assert not world.dog.failed.is_set()


@pytest.mark.parametrize("why", ["waits on purpose", "broker away", "database away"])
async def test_partition_that_waits_for_a_reason_is_excused(why):
    async def dependencies() -> bool:
        return why != "database away"

    world = World(dependencies=dependencies)
    world.consumer.left[0] = 3
    world.consumer.partitions[0] = Progress(0, waiting=why == "waits on purpose", busy=True)
    world.consumer.error = Unavailable("x") if why == "broker away" else None
    await world.pass_time(300)
    assert not world.dog.failed.is_set()


async def test_a_client_that_ended_by_itself_fails_at_once():
    world = World()
    world.consumer.ended = True
    await world.pass_time(1)
    assert world.dog.failed.is_set()
