"""Sends batches: all records of a lane in order, all lanes at once, acknowledged by all replicas or failed as a whole.

The library's own retries and its reconnecting are off. A retry could reach a broker that came back empty before anybody
looked, and so could a first try that finds its connection gone; both would put new events before the old ones. So a
producer connects once, before its owner looks at the broker. Whoever restarts drops his connections: what is sent on a
connection older than the look reaches the broker that was looked at, or nobody. A failed send ends this producer.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder

from nightshift.bus.kafka.credentials import connection_arguments
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.errors import Unavailable
from nightshift.relay.domain.records import Lane, Record
from nightshift.relay.ports import Ack

#: Bytes kept free below the broker's limit: the frame of the last record, and the header of the batch.
_FRAME = 1024


@lru_cache(maxsize=16_384)
def _hash(key: bytes) -> int:
    """Kafka's own hash of a key; kept for the builds of the hour, as it is computed in Python."""
    return int(murmur2(key)) & 0x7FFFFFFF


class BatchProducer:
    """One producer session. After any error it must be closed and not used again."""

    def __init__(self, settings: KafkaSettings, *, ack_timeout_s: float) -> None:
        self._timeout = ack_timeout_s
        self._given_up = False
        self._partitions: dict[str, int] = {}
        self._leaders: frozenset[int] = frozenset()
        self._cut = asyncio.Event()
        self._disposal: asyncio.Task[None] | None = None
        self._producer = AIOKafkaProducer(
            **connection_arguments(settings),
            acks="all",
            enable_idempotence=settings.kafka_idempotence,
            compression_type=None if settings.kafka_compression == "none" else settings.kafka_compression,
            max_batch_size=settings.kafka_max_message_bytes - _FRAME,
            request_timeout_ms=int(ack_timeout_s * 1000),
            retry_backoff_ms=int(ack_timeout_s * 2000),  # beyond our patience: no retry inside
        )

    async def start(self, topics: Sequence[str]) -> None:
        """Connect, once and for all, to the leaders of these topics' partitions. Raises Unavailable."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._producer.start()
                for topic in topics:
                    self._partitions[topic] = len(await self._producer.partitions_for(topic))
                await self._connect()
        except (KafkaError, TimeoutError, OSError) as error:
            raise Unavailable(f"the broker does not let us produce: {_said(error)}") from error

    async def _connect(self) -> None:
        client = self._producer.client
        leaders = {client.cluster.leader_for_partition(TopicPartition(*lane)) for lane in self.lanes()}
        if not leaders <= {broker.nodeId for broker in client.cluster.brokers()}:
            raise KafkaConnectionError("a partition has no leader")
        for node in leaders:
            if not await client.ready(node):
                raise KafkaConnectionError(f"node {node} does not answer")
        self._leaders = frozenset(leaders)
        # The library has no setting for it.
        client._get_conn = self._connection_there_is

    async def _connection_there_is(
        self, node_id: int, *, group: int = ConnectionGroup.DEFAULT, no_hint: bool = False
    ) -> AIOKafkaConnection | None:
        del no_hint
        connection = self._producer.client._conns.get((node_id, group))
        if connection is not None and connection.connected():
            return connection
        if node_id in self._leaders:
            self._cut.set()
        return None

    def lane(self, topic: str, key: bytes) -> Lane:
        """Where a key's records go: what every Kafka client's default partitioner says."""
        return Lane(topic, _hash(key) % self._partitions[topic])

    def lanes(self) -> list[Lane]:
        """Every lane of the topics this producer knows."""
        return [Lane(topic, n) for topic, count in self._partitions.items() for n in range(count)]

    async def send(self, lanes: Mapping[Lane, Sequence[Record]]) -> list[Ack]:
        """Send all of it. Raises Unavailable when any lane failed: then the rest of that lane was not sent."""
        sending = [asyncio.ensure_future(self._send_lane(lane, records)) for lane, records in lanes.items()]
        for one in sending:
            one.add_done_callback(_hear)
        cut = asyncio.ensure_future(self._cut.wait())
        try:
            # Not cancelled from here: aiokafka would complain later of failures that nobody listening.
            acknowledged = asyncio.gather(*map(asyncio.shield, sending))
            acknowledged.add_done_callback(_hear)
            async with asyncio.timeout(self._timeout):
                await asyncio.wait((acknowledged, cut), return_when=asyncio.FIRST_COMPLETED)
            if not acknowledged.done():
                raise Unavailable("the connection to the broker is gone")
            return acknowledged.result()
        except TimeoutError as error:
            raise Unavailable(f"the broker did not acknowledge within {self._timeout:g} s") from error
        except KafkaError as error:
            raise Unavailable(f"the broker refused a batch: {_said(error)}") from error
        finally:
            cut.cancel()

    async def _send_lane(self, lane: Lane, records: Sequence[Record]) -> Ack:
        first, last, batch, sent_before, head = -1, -1, -1, 0, records[0]
        for builder in self._builders(records):
            if self._given_up:
                raise KafkaConnectionError("given up")
            # One after the other: the second waits for the acknowledgement of the first.
            sent = await (await self._producer.send_batch(builder, lane.topic, partition=lane.partition))
            if sent.offset >= 0:  # a batch the broker had already has no offset to notify
                first = sent.offset if first < 0 else first
                last, batch = sent.offset + builder.record_count() - 1, sent.offset
                head = records[sent_before]
            sent_before += builder.record_count()
        return Ack(lane, first, last, batch, head)

    def _builders(self, records: Sequence[Record]) -> list[BatchBuilder]:
        builders = [self._producer.create_batch()]
        for record in records:
            place = {
                "timestamp": None,
                "key": record.key,
                "value": record.value,
                "headers": record.headers,
            }
            if builders[-1].append(**place) is None:
                builders.append(self._producer.create_batch())
                builders[-1].append(**place)
        for builder in builders:
            builder.close()
        return builders

    async def close(self) -> None:
        """Give up what is in flight and leave; does not wait for a broker that is gone."""
        self._given_up = True
        sender = (
            self._producer._sender.sender_task
        )  # stop() alone would wait for ever to deliver what is pending
        if sender is not None:
            sender.cancel()
        self._disposal = asyncio.ensure_future(self._producer.stop())
        with contextlib.suppress(TimeoutError, KafkaError, OSError, asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(self._disposal), 0.2)
        # What is left ends by itself after the request's timeout and the backoff.


def _hear(sent: asyncio.Future[Any]) -> None:
    if not sent.cancelled():
        sent.exception()


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
