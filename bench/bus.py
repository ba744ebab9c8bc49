"""The bus: messages a second through our consumer beside raw aiokafka with pydantic, and the time of one hop.

Run: python bench/bus.py [--messages 20000] [--rounds 3] [--hops 600]
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Outgoing, Subscription
from nightshift.bus.settings import KafkaSettings
from nightshift.contracts import ids
from nightshift.contracts.cloudevents import encode_fact
from nightshift.contracts.envelope import Envelope, fact_source
from nightshift.contracts.events.build import CheckpointSaved, ToolCallRequested
from nightshift.contracts.registry import encode, wire_name
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import EmbeddedKafka
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import RecordedEvent
from nightshift.servicekit import logs

_BUILDS = 50


def fact(topic: str, build: int, version: int, *, skipped: bool = False) -> Outgoing:
    """About 1 KB of data, as the relay sends it."""
    name = f"bench-{build}"
    event = (
        CheckpointSaved(turn=version)
        if skipped
        else ToolCallRequested(
            call_id=f"{name}/{version}/0",
            turn=version,
            index=0,
            tool="bash",
            tool_use_id=f"toolu_{version}",
            input={"command": "x" * 900},
        )
    )
    cause = ids.request_cause("bench", name)
    envelope = Envelope(
        id=str(ids.event_id(cause, event.type, version)),
        type=wire_name(event.type, event.version),
        source=fact_source("orchestrator/bench"),
        subject=name,
        time=datetime.now(UTC),
        sequence=version,
        correlation_id=name,
        causation_id=cause,
    )
    return Outgoing.of(topic, encode_fact(envelope, encode(event)))


@asynccontextmanager
async def broker() -> AsyncIterator[KafkaSettings]:
    """An embedded broker with fresh topics of one partition."""
    with tempfile.TemporaryDirectory() as folder:
        part = EmbeddedKafka(Path(folder))
        address = await part.start()
        try:
            topics = Topics(f"bench{uuid4().hex[:8]}")
            admin = AIOKafkaAdminClient(bootstrap_servers=address.bootstrap)
            await admin.start()
            await admin.create_topics([NewTopic(name, 1, 1) for name in topics.all])
            await admin.close()
            yield KafkaSettings(
                kafka_bootstrap=address.bootstrap,
                kafka_idempotence=address.idempotence,
                kafka_adaptive_fetch=address.adaptive_fetch,
                topic_prefix=topics.prefix,
            )
        finally:
            await part.stop()


async def fill(settings: KafkaSettings, topic: str, count: int, *, skipped: bool = False) -> None:
    """Put that many facts into a topic."""
    async with KafkaProducer(settings) as producer:
        batch: list[Outgoing] = []
        for number in range(count):
            batch.append(fact(topic, number % _BUILDS, number // _BUILDS + 1, skipped=skipped))
            if len(batch) == 1000:
                await producer.send(batch)
                batch = []
        await producer.send(batch)


async def raw(settings: KafkaSettings, topic: str, count: int) -> float:
    """The limit: aiokafka's batches, pydantic on each value, one commit a batch."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap,
        group_id=f"raw-{uuid4().hex[:8]}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=2000,
        heartbeat_interval_ms=600,
        max_poll_records=500,
    )
    consumer.subscribe([topic])
    await consumer.start()
    try:
        validate = ToolCallRequested.__pydantic_validator__.validate_json
        taken, begun = 0, time.perf_counter()
        while taken < count:
            found = await consumer.getmany(timeout_ms=1000, max_records=500)
            for partition, records in found.items():
                for record in records:
                    validate(record.value)
                taken += len(records)
                await consumer.commit({TopicPartition(*partition): records[-1].offset + 1})
        return count / (time.perf_counter() - begun)
    finally:
        await consumer.stop()


async def ours(settings: KafkaSettings, topic: str, count: int, *, skipped: bool = False) -> float:
    """Our consumer: headers, stale check, decoding, handler, dead letter at hand, commits."""
    done, taken, begun = asyncio.Event(), 0, 0.0

    async def handle(_event: RecordedEvent) -> None:
        nonlocal taken
        taken += 1
        if taken == count:
            done.set()

    handled = Subscription(topic, f"ours-{uuid4().hex[:8]}", {ToolCallRequested: handle})
    async with (
        KafkaProducer(settings) as producer,
        KafkaConsumers(settings, [handled], producer=producer, objects=MemoryObjectStore()) as consumers,
    ):
        begun = time.perf_counter()
        if skipped:
            while consumers.settled < count:
                await asyncio.sleep(0.001)
        else:
            await done.wait()
        return count / (time.perf_counter() - begun)


async def hops(settings: KafkaSettings, count: int, rate: float) -> list[float]:
    """Milliseconds from before the send to inside the handler, at so many a second."""
    sent: dict[str, float] = {}
    took: list[float] = []

    async def handle(event: RecordedEvent) -> None:
        took.append((time.perf_counter() - sent[f"{event.subject}/{event.version}"]) * 1000)

    topics = settings.topics
    subscription = Subscription(topics.build, "hops", {ToolCallRequested: handle})
    async with (
        KafkaProducer(settings) as producer,
        KafkaConsumers(settings, [subscription], producer=producer, objects=MemoryObjectStore()),
    ):
        started, sends = time.perf_counter(), set()
        for number in range(count):
            message = fact(topics.build, number % _BUILDS, number // _BUILDS + 1)
            sent[f"bench-{number % _BUILDS}/{number // _BUILDS + 1}"] = time.perf_counter()
            sends.add(asyncio.create_task(producer.send([message])))
            await asyncio.sleep(max(0.0, started + (number + 1) / rate - time.perf_counter()))
        await asyncio.gather(*sends)
        while len(took) < count:
            await asyncio.sleep(0.01)
    return took


async def main(messages: int, rounds: int, hop_count: int) -> None:
    logs.configure(level="warning", format="console")
    limits, rates, skips, halves, tails = [], [], [], [], []
    for _ in range(rounds):
        async with broker() as settings:
            topics = settings.topics
            await fill(settings, topics.build, messages)
            await fill(settings, topics.sandbox, messages, skipped=True)
            limits.append(await raw(settings, topics.build, messages))
            rates.append(await ours(settings, topics.build, messages))
            skips.append(await ours(settings, topics.sandbox, messages, skipped=True))
        async with broker() as settings:
            took = sorted(await hops(settings, hop_count, 200))
            halves.append(statistics.median(took))
            tails.append(took[int(len(took) * 0.99)])
    limit, rate, skip = map(statistics.median, (limits, rates, skips))
    print("| what | ours | limit in the same run | ratio | target |")
    print("|---|---|---|---|---|")
    print(
        f"| 1 KB facts handled a second | {rate:,.0f} | {limit:,.0f} (aiokafka + pydantic) | {rate / limit:.2f} | – |"
    )
    print(
        f"| facts nobody handles passed over a second | {skip:,.0f} | {limit:,.0f} | {skip / limit:.2f} | – |"
    )
    print(
        f"| produce → handler at 200/s, p50 ms | {statistics.median(halves):.1f} | – | – | ≤ 5 with log and relay |"
    )
    print(
        f"| produce → handler at 200/s, p99 ms | {statistics.median(tails):.1f} | – | – | ≤ 25 with log and relay |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hops", type=int, default=600)
    given = parser.parse_args()
    asyncio.run(main(given.messages, given.rounds, given.hops))
