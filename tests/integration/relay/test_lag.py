"""The lag metrics of the relay: unpublished events, and the age of the oldest in seconds."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from prometheus_client import REGISTRY
from tests.integration.relay.reading import reading
from tests.integration.relay.writing import append_some, log_on
from tests.support.stack import Database
from tests.support.waiting import eventually

from nightshift.bus.port import TopicPartition
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress
from nightshift.relay.adapters.kafka_session import KafkaConnector, KafkaSession
from nightshift.relay.domain.records import Record
from nightshift.relay.ports import Ack
from nightshift.relay.settings import RelaySettings

pytestmark = pytest.mark.kafka


class _Held:
    """A connector whose sends wait for `open`."""

    def __init__(self, inner: KafkaConnector) -> None:
        self._inner = inner
        self.open = asyncio.Event()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[KafkaSession]:
        async with self._inner.connect() as broker:
            send = broker.send

            async def held(records: Mapping[TopicPartition, Sequence[Record]]) -> Sequence[Ack]:
                await self.open.wait()
                return await send(records)

            broker.send = held
            yield broker


def metric(name: str) -> float:
    """Return the value of the group's metric, as a scrape would find it."""
    return REGISTRY.get_sample_value(f"nightshift_relay_{name}", {"group": "0"}) or 0


async def test_the_lag_metrics_grow_and_return_to_zero(
    database: Database, kafka: KafkaAddress, topics: Topics, settings: RelaySettings, group
):
    brokers = _Held(KafkaConnector(settings, ack_timeout_s=settings.relay_ack_timeout_s))
    async with (
        log_on(database.dsn()) as log,
        reading(kafka.bootstrap, topics) as reader,
        group(brokers=brokers, lag_s=0.05),
    ):
        try:
            await eventually(lambda: metric("leader") == 1, 20)
            began, published = time.monotonic(), metric("published_total")
            await append_some(log, "b1", 3)
            await append_some(log, "b2", 4)
            await eventually(lambda: metric("lag_events") == 7)
            before = metric("lag_seconds")
            await eventually(lambda: metric("lag_seconds") > before + 0.3, what="it grows older")
            assert 0 < metric("lag_seconds") <= time.monotonic() - began + 0.5
            assert reader.count == 0
        finally:
            brokers.open.set()
        await eventually(lambda: (metric("lag_events"), metric("lag_seconds")) == (0, 0))
        await eventually(lambda: reader.count == 7)
        assert metric("published_total") == published + 7
    assert metric("leader") == 0
