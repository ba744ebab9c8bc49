"""Sends batches of records: in order within each topic-partition, all partitions at the same time.

All replicas must acknowledge. aiokafka's retries and reconnects are turned off, because both could reach a broker that
restarted empty and write new events before older ones. So a producer connects once, before the broker is checked, and
is closed after a failed send.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder

from nightshift.bus.kafka.credentials import connection_arguments
from nightshift.bus.port import TopicPartition
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.errors import Fault, Unavailable
from nightshift.relay.domain.records import Record
from nightshift.relay.ports import Ack

#: Bytes that a batch stays below the broker's limit: room for the frame of its last record and the header of the batch.
_FRAME = 1024


@lru_cache(maxsize=16_384)
def _hash(key: bytes) -> int:
    """Return the hash from which Kafka clients choose the partition of a key.

    The hash is cached, because Python computes it slowly and the same builds occur again and again.
    """
    return int(murmur2(key)) & 0x7FFFFFFF


class BatchProducer:
    """A connection to the broker for sending. After any error, close it and create another."""

    def __init__(self, settings: KafkaSettings, *, ack_timeout_s: float) -> None:
        self._timeout = ack_timeout_s
        self._closed = False
        self._partition_counts: dict[str, int] = {}
        self._leaders: frozenset[int] = frozenset()
        self._disconnected = asyncio.Event()
        self._disposal: asyncio.Task[None] | None = None
        self._producer = AIOKafkaProducer(
            **connection_arguments(settings),
            acks="all",
            enable_idempotence=settings.kafka_idempotence,
            compression_type=None if settings.kafka_compression == "none" else settings.kafka_compression,
            max_batch_size=settings.kafka_max_message_bytes - _FRAME,
            request_timeout_ms=int(ack_timeout_s * 1000),
            # Longer than a send may take, so that aiokafka never retries.
            retry_backoff_ms=int(ack_timeout_s * 2000),
        )

    async def start(self, topics: Sequence[str]) -> None:
        """Connect once to the leaders of all partitions of these topics.

        Raises Unavailable when a broker does not answer or a partition has no leader.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await self._producer.start()
                for topic in topics:
                    self._partition_counts[topic] = len(await self._producer.partitions_for(topic))
                await self._connect()
        except (KafkaError, TimeoutError, OSError) as error:
            raise Unavailable(f"the broker accepts no producer: {_name(error)}") from error

    async def _connect(self) -> None:
        client = self._producer.client
        leaders = {
            client.cluster.leader_for_partition(KafkaTopicPartition(*one)) for one in self.partitions()
        }
        if not leaders <= {broker.nodeId for broker in client.cluster.brokers()}:
            raise KafkaConnectionError("a partition has no leader")
        for node in leaders:
            if not await client.ready(node):
                raise KafkaConnectionError(f"node {node} does not answer")
        self._leaders = frozenset(leaders)
        # aiokafka has no setting that turns reconnecting off.
        client._get_conn = self._existing_connection

    async def _existing_connection(
        self, node_id: int, *, group: int = ConnectionGroup.DEFAULT, no_hint: bool = False
    ) -> AIOKafkaConnection | None:
        """Replace AIOKafkaClient._get_conn: return an open connection, but never open a new one."""
        del no_hint
        connection = self._producer.client._conns.get((node_id, group))
        if connection is not None and connection.connected():
            return connection
        if node_id in self._leaders:
            self._disconnected.set()
        return None

    def partition_of(self, topic: str, key: bytes) -> TopicPartition:
        """Return the partition for a key, chosen like the default partitioner of Kafka clients."""
        return TopicPartition(topic, _hash(key) % self._partition_counts[topic])

    def partitions(self) -> list[TopicPartition]:
        """Return all partitions of the topics given to `start`."""
        return [
            TopicPartition(topic, number)
            for topic, count in self._partition_counts.items()
            for number in range(count)
        ]

    async def send(self, records: Mapping[TopicPartition, Sequence[Record]]) -> list[Ack]:
        """Send the records and return an Ack for each partition.

        Raises Unavailable when a partition fails. Records of that partition behind the failed batch were not sent.
        """
        sending = [asyncio.ensure_future(self._send_to(where, some)) for where, some in records.items()]
        for one in sending:
            one.add_done_callback(_retrieve_error)
        disconnected = asyncio.ensure_future(self._disconnected.wait())
        try:
            # Shielded from cancellation, because aiokafka would log the failures of cancelled sends.
            acknowledged = asyncio.gather(*map(asyncio.shield, sending))
            acknowledged.add_done_callback(_retrieve_error)
            async with asyncio.timeout(self._timeout):
                await asyncio.wait((acknowledged, disconnected), return_when=asyncio.FIRST_COMPLETED)
            if not acknowledged.done():
                raise Unavailable("the connection to the broker was lost")
            return acknowledged.result()
        except TimeoutError as error:
            raise Unavailable(f"the broker did not acknowledge within {self._timeout:g} s") from error
        except KafkaError as error:
            raise Unavailable(f"the broker refused a batch: {_name(error)}") from error
        finally:
            disconnected.cancel()

    async def _send_to(self, partition: TopicPartition, records: Sequence[Record]) -> Ack:
        first, last, batch, sent_before, head = -1, -1, -1, 0, records[0]
        for builder in self._builders(records):
            if self._closed:
                raise KafkaConnectionError("the producer was closed")
            # Batches of one partition are sent one after the other, each after the acknowledgement of the one before.
            sent = await (
                await self._producer.send_batch(builder, partition.topic, partition=partition.partition)
            )
            if sent.offset >= 0:  # -1: the broker already had this batch
                first = sent.offset if first < 0 else first
                last, batch = sent.offset + builder.record_count() - 1, sent.offset
                head = records[sent_before]
            sent_before += builder.record_count()
        return Ack(partition, first, last, batch, head)

    def _builders(self, records: Sequence[Record]) -> list[BatchBuilder]:
        """Pack the records into batches, in order. Raises Fault when a record is too large for any batch."""
        builders = [self._producer.create_batch()]
        for record in records:
            fields = {"timestamp": None, "key": record.key, "value": record.value, "headers": record.headers}
            if builders[-1].append(**fields) is None:
                builders.append(self._producer.create_batch())
                if builders[-1].append(**fields) is None:
                    raise Fault(f"event {record.row.event_id} fits in no record batch")
        for builder in builders:
            builder.close()
        return builders

    async def close(self) -> None:
        """Drop unsent records and disconnect within 0.2 s, even when the broker does not answer."""
        self._closed = True
        sender = self._producer._sender.sender_task
        if sender is not None:
            sender.cancel()  # stop() would wait without a limit for pending records to be delivered
        self._disposal = asyncio.ensure_future(self._producer.stop())
        with contextlib.suppress(TimeoutError, KafkaError, OSError, asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(self._disposal), 0.2)
        # The rest of the stop ends in the background, after the request timeout and the backoff.


def _retrieve_error(sent: asyncio.Future[Any]) -> None:
    if not sent.cancelled():
        sent.exception()


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
