"""How far a group is at each partition, asked from outside."""

import asyncio

import pytest
from prometheus_client import REGISTRY
from tests.integration.bus.conftest import KafkaRig
from tests.support.bus_suite import Seen, request
from tests.support.waiting import eventually

from nightshift.bus.kafka.progress import partition_progress
from nightshift.bus.port import Outgoing, Subscription
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.port import RecordedEvent

pytestmark = pytest.mark.kafka


async def test_each_partition_tells_what_is_unread_and_since_when(rig: KafkaRig) -> None:
    group, topic, seen = f"{rig.topics.prefix}.r", rig.topics.requests, Seen()
    async with rig.consumers(Subscription(topic, group, {BuildRequested: seen})):
        await _send(rig, "b1", 0)
        await eventually(lambda: seen.subjects == ["b1"], timeout=20)
    await _send(rig, "b2", 1)
    idle, waiting = await partition_progress(rig.settings, {group: topic})
    assert (idle.partition, idle.committed, idle.end, idle.unread, idle.waiting_s) == (0, 1, 1, 0, None)
    assert (waiting.partition, waiting.committed, waiting.unread) == (1, None, 1)
    assert waiting.waiting_s is not None
    assert 0 <= waiting.waiting_s < 60


async def test_a_topic_that_does_not_exist_has_no_partitions(rig: KafkaRig) -> None:
    assert await partition_progress(rig.settings, {"g": f"{rig.topics.prefix}.none"}) == []


async def _send(rig: KafkaRig, build: str, partition: int) -> None:
    message = request(build)
    await rig.producer.send(
        [Outgoing(rig.topics.requests, message.key, message.value, message.headers, partition)]
    )


async def test_the_lag_metric_counts_what_is_not_handled(rig: KafkaRig) -> None:
    group, topic, free = f"{rig.topics.prefix}.lag", rig.topics.requests, asyncio.Event()

    async def wait(_event: RecordedEvent) -> None:
        await free.wait()

    def lag() -> float | None:
        return REGISTRY.get_sample_value("nightshift_consumer_lag", {"topic": topic, "group": group})

    for build in ("b1", "b2", "b3"):
        await _send(rig, build, 0)
    async with rig.consumers(Subscription(topic, group, {BuildRequested: wait})):
        await eventually(lambda: lag() == 3, timeout=20)
        free.set()
        await eventually(lambda: lag() == 0, timeout=20)
