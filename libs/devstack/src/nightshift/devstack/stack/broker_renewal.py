"""Limits the memory of the embedded broker: before a restart, copies the records that exist only in the broker.

Tansu never deletes records, and each fetch scans all batches of its partition. Facts need no copy, because the relay
publishes those of unfinished builds again. But dead letters, and requests that a service has not read, exist only in
the broker.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psutil

from nightshift.contracts.readers import subscribed
from nightshift.contracts.topics import Topics

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

#: The broker is restarted above so many MiB of resident memory, unless the environment sets another limit.
DEFAULT_LIMIT_MB = 64
#: Milliseconds a fetch and a poll may wait for records. After so many empty polls in a row, the topic is read to its
#: end.
_FETCH_WAIT_MS, _POLL_MS, _EMPTY_POLLS = 50, 300, 2


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MiB, or 0 when the process does not exist."""
    try:
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


async def read_unreplaceable(bootstrap: str, topics: Topics) -> "list[ConsumerRecord]":
    """Return the requests that some service has not read and all dead letters, in order within each partition.

    Reads until no new records have arrived between two reads. Raises KafkaError, OSError or TimeoutError.
    """
    # Imported here, because the import would slow every start by a quarter of a second. This consumer survives records
    # that do not decode.
    from nightshift.bus.kafka.checked_consumer import CheckedConsumer  # noqa: PLC0415

    first = await _first_unread(bootstrap, topics)
    consumer = CheckedConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=_FETCH_WAIT_MS
    )
    await consumer.start()
    try:
        partitions = await _partitions(consumer, [topics.requests, topics.dead_letter])
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, first.get(partition, 0))
        records: list[ConsumerRecord] = []
        ends = None
        while True:
            records += await _to_the_end(consumer)
            # The broker's end offset shows that another batch arrived, but not how many records it has.
            before, ends = ends, await consumer.end_offsets(partitions)
            if ends == before:
                return records
    finally:
        await consumer.stop()


async def write_again(bootstrap: str, records: "Sequence[ConsumerRecord]") -> None:
    """Send the records to the partitions from which they were read. Raises KafkaError, OSError or TimeoutError."""
    if not records:
        return
    from aiokafka import AIOKafkaProducer  # noqa: PLC0415 - see above

    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        for record in records:
            await producer.send(
                record.topic,
                value=record.value,
                key=record.key,
                partition=record.partition,
                timestamp_ms=record.timestamp,
                headers=list(record.headers),
            )
        await producer.flush()


async def _first_unread(bootstrap: str, topics: Topics) -> "dict[TopicPartition, int]":
    """Return for each partition of the requests topic the lowest offset that some service has not read."""
    from aiokafka import AIOKafkaConsumer  # noqa: PLC0415 - see above

    first: dict[TopicPartition, int] = {}
    for service, family, _ in subscribed():
        if family != "requests":
            continue
        group = topics.group(service, topics.requests)
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
        await consumer.start()
        try:
            for partition in await _partitions(consumer, [topics.requests]):
                read = await consumer.committed(partition) or 0
                first[partition] = min(first.get(partition, read), read)
        finally:
            await consumer.stop()
    return first


async def _partitions(consumer: "AIOKafkaConsumer", topics: Sequence[str]) -> "list[TopicPartition]":
    from aiokafka import TopicPartition  # noqa: PLC0415 - see above

    await consumer.topics()  # asks for all topics, because some brokers create a topic that a client names
    return [
        TopicPartition(topic, number)
        for topic in topics
        for number in sorted(consumer.partitions_for_topic(topic) or ())
    ]


async def _to_the_end(consumer: "AIOKafkaConsumer") -> "list[ConsumerRecord]":
    found: list[ConsumerRecord] = []
    empty = 0
    async with asyncio.timeout(60):
        while empty < _EMPTY_POLLS:
            polled = await consumer.getmany(timeout_ms=_POLL_MS)
            found += [record for records in polled.values() for record in records]
            empty = 0 if polled else empty + 1
    return found
