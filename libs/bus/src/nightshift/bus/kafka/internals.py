"""The private parts of aiokafka 0.14 that consumers use, each with its reason. A test fails when aiokafka changes
one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.conn import create_conn
from aiokafka.structs import OffsetAndMetadata


def check_coordination(consumer: AIOKafkaConsumer) -> None:
    """Raise the pending error of the group's coordination, as aiokafka's poll does. Raises KafkaError.

    aiokafka stops coordinating until the error is raised, and a poll that waits for records raises none. Ask
    `coordination_ended` afterwards whether the coordination continues.
    """
    consumer._coordinator.check_errors()


def coordination_ended(consumer: AIOKafkaConsumer) -> bool:
    """Return whether the task that keeps the group membership has ended although the consumer is open."""
    return bool(consumer._coordinator._coordination_task.done())


async def committed(
    consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return the committed offsets with their metadata. aiokafka's own `committed()` leaves out the metadata.

    A partition without a committed offset is left out. Raises KafkaError.
    """
    found: dict[TopicPartition, OffsetAndMetadata] = await consumer._coordinator.fetch_committed_offsets(
        list(partitions)
    )
    return {partition: offset for partition, offset in found.items() if offset.offset >= 0}


async def close_connections(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Close the sockets of a client whose `stop` did not return."""
    await client._client.close() if isinstance(client, AIOKafkaConsumer) else await client.client.close()


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> set[int] | None:
    """Return the partition numbers of any topic, or None when the topic does not exist.

    Asks for all topics, because some brokers create a topic when a client asks for it by name. aiokafka's
    `partitions_for_topic` knows only subscribed topics.
    """
    cluster = await consumer._client.fetch_all_metadata()
    found: set[int] | None = cluster.partitions_for_topic(topic)
    return found


async def connect_once(host: str, port: int, arguments: Mapping[str, Any]) -> None:
    """Connect and log in to one broker, and close the connection. Raises KafkaError and OSError."""
    connection = await create_conn(host, port, **arguments)
    connection.close()


async def all_topics(consumer: AIOKafkaConsumer) -> set[str]:
    """Return the names of all topics. `consumer.topics()` raises when a topic was just deleted."""
    cluster = await consumer._client.fetch_all_metadata()
    return set(cluster.topics())
