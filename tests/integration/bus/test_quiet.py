"""A consumer that has read everything is not behind and does not read again, whatever the broker tells of its ends."""

import pytest
from tests.support.bus_suite import Seen, fact

from nightshift.bus.port import Outgoing, Subscription
from nightshift.contracts.events.build import CheckpointSaved

pytestmark = pytest.mark.kafka


async def test_what_was_read_in_one_batch_is_not_read_again(rig, eventually) -> None:
    seen = Seen()
    subscription = Subscription(rig.topics.build, f"{rig.topics.prefix}.quiet", {CheckpointSaved: seen})
    async with rig.producer, rig.consumers(subscription) as consumers:
        messages = [Outgoing.of(rig.topics.build, fact("b", version)) for version in range(1, 6)]
        await rig.producer.send(messages)
        await eventually(lambda: len(seen.events) == 5, 20)
        [feed] = consumers._feeds
        positions = [
            await feed.subscriber.consumer.position(each) for each in feed.subscriber.consumer.assignment()
        ]
        for _ in range(3):
            assert set((await feed.unread([0, 1])).values()) <= {0, -1, -2, -3, -4}
        assert positions == [
            await feed.subscriber.consumer.position(each) for each in feed.subscriber.consumer.assignment()
        ]
        assert seen.calls == 5


async def test_consumer_with_a_fetch_delay_gets_all_in_order(rig, eventually) -> None:
    seen = Seen()
    group = f"{rig.topics.prefix}.patient"
    subscription = Subscription(rig.topics.build, group, {CheckpointSaved: seen}, max_fetch_delay_s=0.05)
    async with rig.producer, rig.consumers(subscription):
        for version in range(1, 41):
            await rig.producer.send([Outgoing.of(rig.topics.build, fact("b", version))])
        await eventually(lambda: len(seen.events) == 40, 20)
        assert [event.version for event in seen.events] == list(range(1, 41))
