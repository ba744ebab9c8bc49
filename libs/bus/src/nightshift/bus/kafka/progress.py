"""Reports how far consumer groups have read each partition, without joining the groups."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from nightshift.bus.kafka import internals
from nightshift.bus.kafka.checked_consumer import CheckedConsumer
from nightshift.bus.kafka.credentials import connection_arguments
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.errors import Unavailable

_POLL_MS = 500


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """How far one group has read one partition. Offsets are those of the next message.

    - `committed`: None when the group never committed in this partition.
    - `unread`: the number of offsets from the committed one to the end. Some may have no message.
    - `waiting_s`: the age in seconds of the first unread message, None when there is none.
    """

    group: str
    topic: str
    partition: int
    committed: int | None
    end: int
    unread: int
    waiting_s: float | None


async def partition_progress(
    settings: KafkaSettings, groups: Mapping[str, str], *, timeout_s: float = 15.0
) -> list[PartitionProgress]:
    """Return the progress of each group at each partition of its topic. `groups` maps group names to topics.

    A topic that does not exist contributes nothing. Raises Unavailable when the broker does not answer for a group
    within `timeout_s`.
    """
    found: list[PartitionProgress] = []
    for group, topic in groups.items():
        consumer = CheckedConsumer(
            **connection_arguments(settings),
            client_id="nightshift-progress",
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=_POLL_MS // 10,
        )
        try:
            async with asyncio.timeout(timeout_s):
                await consumer.start()
                found += await _of_group(consumer, group, topic)
        except (KafkaError, TimeoutError, OSError) as error:
            raise Unavailable(
                f"the broker at {settings.kafka_bootstrap} does not say how far {group} is: {error!r}",
                hint="check NIGHTSHIFT_KAFKA_BOOTSTRAP, and that the broker runs",
            ) from error
        finally:
            await _stop(consumer)
    return found


async def _of_group(consumer: CheckedConsumer, group: str, topic: str) -> list[PartitionProgress]:
    """Return the progress of one group at each partition of its topic. Empty when the topic does not exist.

    Assigns the partitions by hand, so that this consumer does not join the group and take partitions from its members.
    """
    partitions = [
        TopicPartition(topic, each) for each in sorted(await internals.partitions_of(consumer, topic) or ())
    ]
    if not partitions:
        return []
    consumer.assign(partitions)
    begins = await consumer.beginning_offsets(partitions)
    ends = await consumer.end_offsets(partitions)
    found = []
    for each in partitions:
        committed = await consumer.committed(each)
        position = max(committed or 0, begins[each])
        unread = max(ends[each] - position, 0)
        waiting_s = await _age(consumer, each, position) if unread else None
        found.append(
            PartitionProgress(
                group,
                topic,
                each.partition,
                committed,
                ends[each],
                unread if waiting_s is not None else 0,
                waiting_s,
            )
        )
    return found


async def _age(consumer: CheckedConsumer, partition: TopicPartition, position: int) -> float | None:
    """Return the age in seconds of the first message at or after this position.

    Returns None when only transaction markers follow.
    """
    consumer.seek(partition, position)
    for _ in range(4):
        records = await consumer.getmany(partition, timeout_ms=_POLL_MS, max_records=1)
        if records:
            return max(time.time() - records[partition][0].timestamp / 1000, 0.0)
    return None


async def _stop(consumer: CheckedConsumer) -> None:
    try:
        async with asyncio.timeout(5):
            await consumer.stop()
    except (TimeoutError, KafkaError):
        await internals.close_connections(consumer)
