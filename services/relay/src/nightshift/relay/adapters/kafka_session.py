"""A session with the broker: a producer, and a reader of what the broker stores."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.errors import KafkaError

from nightshift.bus.kafka.checked_consumer import CheckedConsumer
from nightshift.bus.kafka.credentials import connection_arguments
from nightshift.bus.port import TopicPartition
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.errors import Unavailable
from nightshift.relay.adapters.batch_producer import BatchProducer
from nightshift.relay.domain.data_loss import OffsetRange
from nightshift.relay.ports import BrokerRecord

_POLL_MS = 250
_MAX_RECORDS = 500


class KafkaSession:
    """The Broker port on aiokafka."""

    def __init__(self, producer: BatchProducer, reader: CheckedConsumer, *, timeout_s: float) -> None:
        self._producer = producer
        self._reader = reader
        self._timeout = timeout_s
        self.partition_of = producer.partition_of
        self.partitions = producer.partitions
        self.send = producer.send

    async def offset_ranges(
        self, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, OffsetRange]:
        """Return the first and the end offset of each of these partitions that exists.

        Raises Unavailable when the broker does not answer in time.
        """
        existing = set(self._producer.partitions())
        asked = [KafkaTopicPartition(*one) for one in partitions if one in existing]
        if not asked:
            return {}
        try:
            async with asyncio.timeout(self._timeout):
                starts, ends = await asyncio.gather(
                    self._reader.beginning_offsets(asked), self._reader.end_offsets(asked)
                )
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(f"the broker did not report its offsets: {type(error).__name__}") from error
        return {TopicPartition(*one): OffsetRange(starts[one], ends[one]) for one in asked}

    async def read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> AsyncIterator[BrokerRecord]:
        """Yield the records in these offset ranges, without their values.

        Raises Unavailable when a read takes too long.
        """
        left = {KafkaTopicPartition(*one): end for one, (start, end) in ranges.items() if start < end}
        if not left:
            return
        self._reader.assign(list(left))
        for one, (start, end) in ranges.items():
            if start < end:
                self._reader.seek(KafkaTopicPartition(*one), start)
        try:
            while left:
                for record in await self._next(left):
                    yield record
        finally:
            self._reader.unsubscribe()

    async def _next(self, left: dict[KafkaTopicPartition, int]) -> list[BrokerRecord]:
        """Return the next records: at least one, unless `left` is empty.

        Removes a partition from `left` when the reader has reached the end offset that `left` has for it.
        """
        found: list[BrokerRecord] = []
        try:
            async with asyncio.timeout(self._timeout):
                while left and not found:
                    read = await self._reader.getmany(*left, timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)
                    for partition, records in read.items():
                        where = TopicPartition(partition.topic, partition.partition)
                        found += [
                            BrokerRecord(
                                where, one.offset, {name: value or b"" for name, value in one.headers}
                            )
                            for one in records
                        ]
                    for partition, end in list(left.items()):
                        # Compares the position and not the last record's offset, because an offset may hold the end of
                        # a transaction.
                        if await self._reader.position(partition) >= end:
                            del left[partition]
                            self._reader.pause(partition)
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(f"the broker did not return its records: {type(error).__name__}") from error
        return found


class KafkaConnector:
    """Opens sessions with the broker. `ack_timeout_s` limits each call to the broker."""

    def __init__(self, settings: KafkaSettings, *, ack_timeout_s: float) -> None:
        self._settings = settings
        self._timeout = ack_timeout_s

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[KafkaSession]:
        """Open a session, and close it when the `with` block ends: within seconds, even if the broker does not answer.

        Raises Unavailable when the broker does not answer.
        """
        producer = BatchProducer(self._settings, ack_timeout_s=self._timeout)
        reader = CheckedConsumer(
            **connection_arguments(self._settings),
            group_id=None,
            enable_auto_commit=False,
            # Raise an error for a missing offset instead of reading from another one.
            auto_offset_reset="none",
            fetch_max_wait_ms=20,
            request_timeout_ms=int(self._timeout * 1000),
        )
        try:
            await producer.start(self._settings.topics.facts)
            try:
                async with asyncio.timeout(self._timeout):
                    await reader.start()
            except (KafkaError, TimeoutError, OSError) as error:
                raise Unavailable(f"the broker cannot be read: {type(error).__name__}") from error
            yield KafkaSession(producer, reader, timeout_s=self._timeout)
        finally:
            await producer.close()
            with contextlib.suppress(KafkaError, TimeoutError, OSError):
                async with asyncio.timeout(1):
                    await reader.stop()
