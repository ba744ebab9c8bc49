"""How far the relay is behind, as its metrics notify it: in events, and in seconds since the oldest of them."""

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

from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress
from nightshift.relay.adapters.kafka_broker import KafkaBroker, KafkaConnector
from nightshift.relay.domain.records import Lane, Record
from nightshift.relay.ports import Ack
from nightshift.relay.settings import RelaySettings
from nightshift.relay.usecases.shard_group import Timings

pytestmark = pytest.mark.kafka


class _Held:
    """BrokerConnector that take nothing until they are let go."""

    def __init__(self, inner: KafkaConnector) -> None:
        self._inner = inner
        self.open = asyncio.Event()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[KafkaBroker]:
        async with self._inner.connect() as broker:
            send = broker.send

            async def held(lanes: Mapping[Lane, Sequence[Record]]) -> Sequence[Ack]:
                await self.open.wait()
                return await send(lanes)

            broker.send = held
            yield broker


def told(metric: str) -> float:
    """The group's value, as a scrape would find it; nothing counted yet is 0."""
    return REGISTRY.get_sample_value(f"nightshift_relay_{metric}", {"group": "0"}) or 0


async def test_the_lag_is_told_in_events_and_in_seconds_and_is_nothing_once_all_is_published(
    database: Database, kafka: KafkaAddress, topics: Topics, settings: RelaySettings, group
):
    brokers = _Held(KafkaConnector(settings, ack_timeout_s=settings.relay_ack_timeout_s))
    async with (
        log_on(database.dsn()) as log,
        reading(kafka.bootstrap, topics) as reader,
        group(brokers=brokers, timings=Timings(lag=0.05)),
    ):
        try:
            await eventually(lambda: told("leader") == 1, 20)
            began, published = time.monotonic(), told("published_total")
            await append_some(log, "b1", 3)
            await append_some(log, "b2", 4)
            await eventually(lambda: told("lag_events") == 7)
            before = told("lag_seconds")
            await eventually(lambda: told("lag_seconds") > before + 0.3, what="it grows older")
            assert 0 < told("lag_seconds") <= time.monotonic() - began + 0.5
            assert reader.count == 0
        finally:
            brokers.open.set()
        await eventually(lambda: (told("lag_events"), told("lag_seconds")) == (0, 0))
        await eventually(lambda: reader.count == 7)
        assert told("published_total") == published + 7
    assert told("leader") == 0
