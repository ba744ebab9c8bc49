"""Sends batches: the records of a topic-partition in order, all partitions at once, acknowledged by all replicas.

The client's own retries and reconnects are off: both could reach a broker that restarted empty, and put new events
before the old ones. A producer connects once, before the broker is checked, and a failed send ends it.
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

#: Bytes kept free below the broker's limit: the frame of the last record, and the header of the batch.
_FRAME = 1024


@lru_cache(maxsize=16_384)
def _hash(key: bytes) -> int:
    """Return Kafka's hash of a key. Cached, because it is computed in Python and builds repeat."""
    return int(murmur2(key)) & 0x7FFFFFFF


class BatchProducer:
    """One producer session. After an error, close it and open another."""

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
            retry_backoff_ms=int(ack_timeout_s * 2000),  # longer than a send may take: no retry inside
        )

    async def start(self, topics: Sequence[str]) -> None:
        """Connect once to the leaders of these topics' partitions. Raises Unavailable."""
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
        """Stand in for AIOKafkaClient._get_conn: return an open connection and never make one."""
        del no_hint
        connection = self._producer.client._conns.get((node_id, group))
        if connection is not None and connection.connected():
            return connection
        if node_id in self._leaders:
            self._disconnected.set()
        return None

    def partition_of(self, topic: str, key: bytes) -> TopicPartition:
        """Return the partition of this key, by the default partitioner of all Kafka clients."""
        return TopicPartition(topic, _hash(key) % self._partition_counts[topic])

    def partitions(self) -> list[TopicPartition]:
        """Return every partition of the topics that this producer knows."""
        return [
            TopicPartition(topic, number)
            for topic, count in self._partition_counts.items()
            for number in range(count)
        ]

    async def send(self, records: Mapping[TopicPartition, Sequence[Record]]) -> list[Ack]:
        """Send all records. Raises Unavailable when a partition failed; the rest of its records was not sent."""
        sending = [asyncio.ensure_future(self._send_to(where, some)) for where, some in records.items()]
        for one in sending:
            one.add_done_callback(_retrieve_error)
        disconnected = asyncio.ensure_future(self._disconnected.wait())
        try:
            # Shielded from cancellation: aiokafka would otherwise log failures that nobody retrieved.
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
            # One after the other: the second waits for the acknowledgement of the first.
            sent = await (
                await self._producer.send_batch(builder, partition.topic, partition=partition.partition)
            )
            if sent.offset >= 0:  # -1 for a batch that the broker had already
                first = sent.offset if first < 0 else first
                last, batch = sent.offset + builder.record_count() - 1, sent.offset
                head = records[sent_before]
            sent_before += builder.record_count()
        return Ack(partition, first, last, batch, head)

    def _builders(self, records: Sequence[Record]) -> list[BatchBuilder]:
        """Return record batches that hold all records in order. Raises Fault when one fits in no batch."""
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
        """Drop what is in flight and disconnect. Takes at most 0.2 s, also when the broker does not answer."""
        self._closed = True
        sender = self._producer._sender.sender_task
        if sender is not None:
            sender.cancel()  # stop() alone would wait without a limit to deliver what is pending
        self._disposal = asyncio.ensure_future(self._producer.stop())
        with contextlib.suppress(TimeoutError, KafkaError, OSError, asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(self._disposal), 0.2)
        # The disposal ends by itself after the request timeout and the backoff.


def _retrieve_error(sent: asyncio.Future[Any]) -> None:
    if not sent.cancelled():
        sent.exception()


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
