"""Stores a partition's Attempts (see RestartGuard) in the metadata of its committed offset."""

import re
from collections.abc import Mapping
from typing import Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import KafkaError

from nightshift.bus.kafka import internals
from nightshift.bus.port import TopicPartition
from nightshift.bus.restart_guard import Attempts
from nightshift.eventlog.errors import Unavailable

_METADATA = re.compile(r"starts=(\d{1,4}) deaths=(\d{1,4})")

Offsets = Mapping[KafkaPartition, tuple[int, str]]


class PartitionAttempts(Protocol):
    """Stores Attempts at the broker.

    There are two implementations, because the embedded broker discards the metadata of commits.
    """

    def metadata(self, partition: TopicPartition, offset: int) -> str:
        """Return the metadata to commit together with this offset."""
        ...

    async def read(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> Attempts | None:
        """Return the Attempts (see RestartGuard) written last for this partition, or None when there are none.

        Raises Unavailable when the broker does not answer.
        """
        ...

    async def write(self, consumer: AIOKafkaConsumer, partition: TopicPartition, attempts: Attempts) -> None:
        """Store the Attempts (see RestartGuard) of this partition. The caller commits their offset afterwards.

        Raises Unavailable when the broker does not answer.
        """
        ...


class CommittedAttempts:
    """Stores attempts as the metadata of committed offsets, on Apache Kafka.

    The commit of a later offset deletes them.
    """

    def __init__(self) -> None:
        self._written: dict[TopicPartition, Attempts] = {}

    def metadata(self, partition: TopicPartition, offset: int) -> str:
        """Return the Attempts (see RestartGuard) that `write` kept, as text, if they belong to this offset.

        Otherwise return an empty text.
        """
        written = self._written.get(partition)
        if written is None or written.offset != offset or not (written.starts or written.deaths):
            return ""
        return f"starts={written.starts} deaths={written.deaths}"

    async def read(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> Attempts | None:
        """Return the Attempts (see RestartGuard) from the metadata of the partition's committed offset, or None.

        Raises Unavailable when the broker does not answer.
        """
        try:
            key = KafkaPartition(*partition)
            committed = (await internals.committed(consumer, [key])).get(key)
        except (KafkaError, OSError) as error:
            raise Unavailable(f"the broker does not answer for committed offsets: {error!r}") from error
        if committed is None or (found := _METADATA.fullmatch(committed.metadata)) is None:
            return None
        return Attempts(committed.offset, int(found[1]), int(found[2]))

    async def write(self, consumer: AIOKafkaConsumer, partition: TopicPartition, attempts: Attempts) -> None:
        """Keep the Attempts (see RestartGuard) for the next commit, which sends them to the broker."""
        self._written[partition] = attempts
