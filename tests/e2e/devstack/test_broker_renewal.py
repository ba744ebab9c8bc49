"""The embedded broker is restarted when it has grown, and nothing that only it holds is lost."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from tests.support.processes import running_up

from nightshift.contracts.topics import Topics
from nightshift.devstack.stack.broker_renewal import resident_mb
from nightshift.devstack.stack.restarts import read_restarts

pytestmark = pytest.mark.timeout(120)

TOPICS = Topics()
LIMIT_MB = 40


async def produce(bootstrap: str, topic: str, values: Sequence[bytes]) -> None:
    """Send them to partition 0, each with its own key and a header."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for value in values:
            await producer.send(
                topic, value=value, key=value[:3], headers=[("ce_id", value[:3])], partition=0
            )
        await producer.flush()


async def commit(bootstrap: str, service: str, offset: int) -> None:
    """Let the service's group have read the requests below this offset."""
    group = TOPICS.group(service, TOPICS.requests)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        partition = TopicPartition(TOPICS.requests, 0)
        consumer.assign([partition])
        await consumer.commit({partition: offset})
    finally:
        await consumer.stop()


async def held(bootstrap: str, topic: str) -> list[tuple[bytes, bytes, Any]]:
    """Return what partition 0 of a topic holds."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        polled = await consumer.getmany(timeout_ms=2000)
        return [(one.key, one.value, one.headers) for one in polled.get(partition, [])]
    finally:
        await consumer.stop()


def told(home: Path) -> dict[str, Any]:
    stack: dict[str, Any] = json.loads((home / "stack.json").read_text())
    return stack["kafka"]


async def test_a_renewed_broker_keeps_requests_and_dead_letters(stack_folder: Path, eventually) -> None:
    home = stack_folder / "renewal" / "home"
    with running_up(home, "--only", "kafka", env={"NIGHTSHIFT_BROKER_MEMORY_MB": str(LIMIT_MB)}) as up:
        kafka = up.ready()["kafka"]
        await produce(kafka["bootstrap"], TOPICS.requests, [b"r-1", b"r-2", b"r-3"])
        await produce(kafka["bootstrap"], TOPICS.dead_letter, [b"d-1", b"d-2"])
        await commit(kafka["bootstrap"], "orchestrator", 2)
        await commit(kafka["bootstrap"], "budget", 1)
        await produce(kafka["bootstrap"], TOPICS.build, [os.urandom(100_000) for _ in range(300)])
        assert resident_mb(kafka["pid"]) > LIMIT_MB
        await eventually(lambda: told(home)["pid"] != kafka["pid"], 30, what="another broker runs")
        assert told(home)["bootstrap"] == kafka["bootstrap"]
        assert resident_mb(told(home)["pid"]) < LIMIT_MB
        requests, letters, facts = [
            await held(kafka["bootstrap"], topic)
            for topic in (TOPICS.requests, TOPICS.dead_letter, TOPICS.build)
        ]
        assert requests == [(name, name, (("ce_id", name),)) for name in (b"r-2", b"r-3")]
        assert letters == [(name, name, (("ce_id", name),)) for name in (b"d-1", b"d-2")]
        assert facts == [], "the relay publishes them again from the log"
        assert read_restarts(home) == {}, "a restart on purpose is no fault"
        assert f"held more than {LIMIT_MB} MiB; starting it again" in up.stderr()
