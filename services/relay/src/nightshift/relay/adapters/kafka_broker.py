"""A session with the broker: a producer, and a reader that looks at what the broker holds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from nightshift.bus.kafka.credentials import connection_arguments
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.errors import Unavailable
from nightshift.relay.adapters.kafka_producer import BatchProducer
from nightshift.relay.domain.readback import OffsetRange
from nightshift.relay.domain.records import Lane, Record
from nightshift.relay.ports import Ack, BrokerRecord

_POLL_MS = 250
_MAX_RECORDS = 500


class KafkaBroker:
    """Implements Broker on aiokafka."""

    def __init__(self, producer: BatchProducer, reader: AIOKafkaConsumer, *, timeout_s: float) -> None:
        self._producer = producer
        self._reader = reader
        self._timeout = timeout_s
        self.lane = producer.lane
        self.lanes = producer.lanes

    async def send(self, lanes: Mapping[Lane, Sequence[Record]]) -> Sequence[Ack]:
        """Send all lanes; see BatchProducer.send."""
        return await self._producer.send(lanes)

    async def offset_ranges(self, lanes: Sequence[Lane]) -> Mapping[Lane, OffsetRange]:
        """First offset and end of each lane; a lane that is not there is left out. Raises Unavailable."""
        known = set(self._producer.lanes())
        partitions = [TopicPartition(*lane) for lane in lanes if lane in known]
        if not partitions:
            return {}
        try:
            async with asyncio.timeout(self._timeout):
                starts, ends = await asyncio.gather(
                    self._reader.beginning_offsets(partitions), self._reader.end_offsets(partitions)
                )
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(f"the broker does not notify its offsets: {type(error).__name__}") from error
        return {Lane(p.topic, p.partition): OffsetRange(starts[p], ends[p]) for p in partitions}

    async def held(self, ranges: Mapping[Lane, tuple[int, int]]) -> AsyncIterator[BrokerRecord]:
        """Records of these offset ranges, headers only. Raises Unavailable when they cannot be read in time."""
        open_ = {TopicPartition(*lane): end for lane, (start, end) in ranges.items() if start < end}
        if not open_:
            return
        self._reader.assign(list(open_))
        for lane, (start, end) in ranges.items():
            if start < end:
                self._reader.seek(TopicPartition(*lane), start)
        try:
            while open_:
                for held in await self._next(open_):
                    yield held
        finally:
            self._reader.unsubscribe()

    async def _next(self, open_: dict[TopicPartition, int]) -> list[BrokerRecord]:
        found: list[BrokerRecord] = []
        try:
            async with asyncio.timeout(self._timeout):
                while not found:
                    read = await self._reader.getmany(*open_, timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)
                    for partition, records in read.items():
                        end = open_[partition]
                        lane = Lane(partition.topic, partition.partition)
                        found += [
                            BrokerRecord(lane, record.offset, dict(record.headers)) for record in records
                        ]
                        if records and records[-1].offset >= end - 1:
                            del open_[partition]
                            self._reader.pause(partition)
                    if not open_:
                        break
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(f"the broker does not give back its records: {type(error).__name__}") from error
        return found


class KafkaConnector:
    """Opens sessions with the broker. `ack_timeout_s` bounds each call to it."""

    def __init__(self, settings: KafkaSettings, *, ack_timeout_s: float) -> None:
        self._settings = settings
        self._timeout = ack_timeout_s

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[KafkaBroker]:
        """A session; closed quickly, also when the broker is gone. Raises Unavailable."""
        producer = BatchProducer(self._settings, ack_timeout_s=self._timeout)
        reader = AIOKafkaConsumer(
            **connection_arguments(self._settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # an offset that is gone is an answer, not a reason to start elsewhere
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
            yield KafkaBroker(producer, reader, timeout_s=self._timeout)
        finally:
            await producer.close()
            with contextlib.suppress(KafkaError, TimeoutError, OSError):
                async with asyncio.timeout(1):
                    await reader.stop()
