"""Reads a topic from its beginning to its current end without a consumer group, for commands that people run."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import KafkaError

from nightshift.bus.kafka import internals
from nightshift.bus.kafka.checked_consumer import CheckedConsumer
from nightshift.bus.kafka.credentials import connection_arguments
from nightshift.bus.port import Inbound, TopicPartition
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.errors import NotFound, Unavailable

# Short, because the embedded broker waits this long for each partition that is read to its end.
_FETCH_WAIT_MS = 50
_POLL_MS = 500


class KafkaReader:
    """Reads whole topics. Raises Unavailable when no record arrives for `timeout_s` seconds."""

    def __init__(self, settings: KafkaSettings, *, timeout_s: float = 15.0) -> None:
        self._settings = settings
        self._timeout_s = timeout_s

    async def read(self, topic: str, *, newest: int | None = None) -> AsyncIterator[Inbound]:
        """Yield every record up to the ends of the partitions at the time of the call.

        If `newest` is given, reads only that many offsets at the end of each partition. Raises NotFound when the topic
        does not exist, and Unavailable when the broker does not answer.
        """
        async with self._client() as client:
            try:
                async with asyncio.timeout(self._timeout_s):
                    partitions = await self._partitions(client, topic)
                    client.assign(partitions)
                    begins = await client.beginning_offsets(partitions)
                    ends = await client.end_offsets(partitions)
                if newest is not None:
                    begins = {each: max(begin, ends[each] - newest) for each, begin in begins.items()}
                left = {each: end for each, end in ends.items() if end > begins[each]}
                for each in left:
                    client.seek(each, begins[each])
                if set(partitions) - left.keys():
                    client.pause(*(set(partitions) - left.keys()))
            except (KafkaError, TimeoutError, OSError) as error:
                raise self._unavailable(error) from error
            while left:
                for record in await self._more(client, left):
                    each = KafkaPartition(record.topic, record.partition)
                    if record.offset < left.get(each, 0):
                        yield record
                for each, end in list(left.items()):
                    if await client.position(each) >= end:
                        del left[each]
                        client.pause(each)

    async def end_offsets(self, topic: str) -> dict[TopicPartition, int]:
        """Return the current end offset of each partition.

        Raises NotFound when the topic does not exist, and Unavailable.
        """
        async with self._client() as client:
            try:
                async with asyncio.timeout(self._timeout_s):
                    ends = await client.end_offsets(await self._partitions(client, topic))
            except (KafkaError, TimeoutError, OSError) as error:
                raise self._unavailable(error) from error
            return {TopicPartition(each.topic, each.partition): end for each, end in ends.items()}

    async def _more(self, client: CheckedConsumer, ends: Mapping[KafkaPartition, int]) -> list[Inbound]:
        """Wait for the next records and return them.

        Returns an empty list when there are none, but a partition has been read to its end in `ends`. That happens when
        the last offset of the partition is a transaction marker, which is no record. Raises Unavailable at the time
        limit.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout_s
        while loop.time() < until:
            try:
                found = await client.getmany(timeout_ms=_POLL_MS, max_records=1000)
            except (KafkaError, OSError) as error:
                raise self._unavailable(error) from error
            if found or [each for each, end in ends.items() if await client.position(each) >= end]:
                return [record for records in found.values() for record in records]
        raise self._unavailable(TimeoutError("no more records came"))

    async def _partitions(self, client: CheckedConsumer, topic: str) -> list[KafkaPartition]:
        partitions = await internals.partitions_of(client, topic)
        if partitions is None:
            raise NotFound(
                f"the broker has no topic {topic}", hint="`nightshift topics apply` makes the topics"
            )
        return [KafkaPartition(topic, partition) for partition in sorted(partitions)]

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[CheckedConsumer]:
        client = CheckedConsumer(
            **connection_arguments(self._settings),
            client_id="nightshift-reader",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            request_timeout_ms=int(self._timeout_s * 1000),
        )
        try:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await client.start()
            except (KafkaError, TimeoutError, OSError) as error:
                raise self._unavailable(error) from error
            yield client
        finally:
            try:
                async with asyncio.timeout(5):
                    await client.stop()
            except (TimeoutError, KafkaError):
                await internals.close_connections(client)

    def _unavailable(self, error: BaseException) -> Unavailable:
        return Unavailable(
            f"the broker at {self._settings.kafka_bootstrap} does not answer: {error or type(error).__name__}",
            hint="check NIGHTSHIFT_KAFKA_BOOTSTRAP, and that the broker runs",
        )
