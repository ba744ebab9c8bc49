"""What the factory refuses, and what it leans on inside FastStream and aiokafka."""

from importlib.metadata import version

import pytest
from faststream import AckPolicy
from faststream.kafka import KafkaBroker

from nightshift.bus.dispatch import Dispatcher
from nightshift.bus.kafka.consumers import demand_manual_acks
from nightshift.bus.port import Subscription
from nightshift.bus.seen import SeenSequences
from nightshift.contracts.events.build import CheckpointSaved
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.objects.memory import MemoryObjectStore


@pytest.mark.parametrize("policy", [each for each in AckPolicy if each is not AckPolicy.REJECT_ON_ERROR])
def test_only_manual_acks_are_taken(policy):
    subscriber = KafkaBroker("x:1").subscriber("t", batch=True, group_id="g", ack_policy=policy)
    if policy is AckPolicy.MANUAL:
        assert demand_manual_acks(subscriber) is subscriber
    else:
        with pytest.raises(ValueError, match="manually"):
            demand_manual_acks(subscriber)


def test_subscriber_without_manual_acks_or_batches_is_refused():
    broker = KafkaBroker("x:1")
    with pytest.raises(ValueError, match="manually"):
        demand_manual_acks(broker.subscriber("t", batch=True, group_id="g"))
    with pytest.raises(ValueError, match="batches"):
        demand_manual_acks(broker.subscriber("t", group_id="g", ack_policy=AckPolicy.MANUAL))


def test_handlers_of_one_subscription_are_of_one_topic():
    async def handle(_event) -> None: ...

    with pytest.raises(ValueError, match="one topic"):
        Dispatcher(
            Subscription("t", "g", {BuildRequested: handle, CheckpointSaved: handle}),
            objects=MemoryObjectStore(),
        )


def test_the_private_parts_that_we_touch_were_read_in_this_version():
    """When this fails: read `bus/kafka/internals.py` and FastStream's batch subscriber again, then raise it."""
    assert version("aiokafka").startswith("0.14.")
    assert version("faststream").startswith("0.7.")


def test_sequences_are_remembered_up_to_a_bound_and_never_go_back():
    seen = SeenSequences(2)
    seen.advance("a", 5)
    seen.advance("a", 3)
    assert seen.is_stale("a", 5)
    assert not seen.is_stale("a", 6)
    seen.advance("b", 1)
    seen.advance("c", 1)
    assert not seen.is_stale("a", 5)  # forgotten, so handled again
