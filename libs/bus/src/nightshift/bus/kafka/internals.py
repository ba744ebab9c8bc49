"""The private parts of aiokafka 0.14 that consumers use, each with its reason. A test fails when one moves."""

from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata


def check_coordination(consumer: AIOKafkaConsumer) -> None:
    """Raise the pending error of the group's coordination, as each poll does.

    A poll does not return while no record arrives, and the coordination stands still until its error is taken. Raises
    KafkaError; `coordination_ended` says whether the coordination continues afterwards.
    """
    consumer._coordinator.check_errors()


def coordination_ended(consumer: AIOKafkaConsumer) -> bool:
    """Whether the task that keeps the membership has ended while the consumer is still open."""
    return bool(consumer._coordinator._coordination_task.done())


async def committed(
    consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return the committed offsets with their metadata, of those partitions that have one. Raises KafkaError.

    `consumer.committed()` drops the metadata.
    """
    found: dict[TopicPartition, OffsetAndMetadata] = await consumer._coordinator.fetch_committed_offsets(
        list(partitions)
    )
    return {partition: offset for partition, offset in found.items() if offset.offset >= 0}


async def close_connections(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Close the sockets of a client whose orderly stop did not end."""
    await client._client.close() if isinstance(client, AIOKafkaConsumer) else await client.client.close()


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> set[int] | None:
    """Return the partitions of any topic, None when it does not exist.

    Does not ask for the topic by name, because some brokers would then create it. `partitions_for_topic` knows
    subscribed topics only.
    """
    cluster = await consumer._client.fetch_all_metadata()
    found: set[int] | None = cluster.partitions_for_topic(topic)
    return found
