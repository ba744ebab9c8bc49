"""The embedded broker looks through all that a partition holds: who reads at its end must be given time for it."""

import asyncio
import itertools
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaProducer
from tests.support.bus_suite import Seen, fact

from nightshift.bus.port import Outgoing, Subscription
from nightshift.contracts.events.build import CheckpointSaved

BATCHES = 9000  # about three times what is looked through in the shortest wait


@pytest.mark.timeout(180)
async def test_who_reads_at_the_end_of_a_long_partition_gets_what_comes(rig, eventually) -> None:
    await fill(rig.settings.kafka_bootstrap, rig.topics.build)
    seen = Seen()
    subscription = Subscription(
        rig.topics.build, f"{rig.topics.prefix}.long", {CheckpointSaved: seen}, from_now=True
    )
    async with rig.producer, rig.consumers(subscription) as consumers:
        await eventually(lambda: consumers.assigned, 20)
        flowing = asyncio.create_task(keep_flowing(rig))
        try:
            # While anything flows, fetches wait shortly.
            await eventually(lambda: any(event.stream_id == "build-flowing" for event in seen.events), 20)
            await rig.producer.send([on_partition(rig, 0, "late", 1)])
            await eventually(lambda: any(event.stream_id == "build-late" for event in seen.events), 20)
        finally:
            flowing.cancel()
            await asyncio.gather(flowing, return_exceptions=True)


async def fill(bootstrap: str, topic: str) -> None:
    """A batch each, as they come when events come one by one."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=False)
    await producer.start()
    try:
        for version in range(1, BATCHES + 1):
            message = fact("early", version)
            batch = producer.create_batch()
            batch.append(key=message.key, value=message.value, timestamp=None, headers=list(message.headers))
            batch.close()
            await (await producer.send_batch(batch, topic, partition=0))
    finally:
        await producer.stop()


def on_partition(rig, partition: int, build: str, version: int) -> Outgoing:
    return replace(Outgoing.of(rig.topics.build, fact(build, version)), partition=partition)


async def keep_flowing(rig) -> None:
    """Something on the other partition, ten times a second."""
    for version in itertools.count(1):
        await rig.producer.send([on_partition(rig, 1, "flowing", version)])
        await asyncio.sleep(0.1)
