"""On a broker that wakes nobody: what the relay tells is fetched at once, and what it does not tell a little later."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest
from tests.support.bus_suite import QUICK, Seen, fact, request
from tests.support.stack import Database as Place
from tests.support.waiting import eventually

from nightshift.bus.kafka import fetch_pace
from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.port import Outgoing, Subscription
from nightshift.bus.port import Partition as TopicPartition
from nightshift.bus.publish_notifications import CHANNEL, PostgresWakes
from nightshift.contracts.events.build import CheckpointSaved
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.database import Database, PgConfig
from nightshift.relay.adapters.leader_session import PostgresLeaderSessions
from nightshift.relay.domain.records import LastPublished


@asynccontextmanager
async def listening(place: Place) -> AsyncIterator[PostgresWakes]:
    server = Database(PgConfig(dsn=place.dsn("nightshift_sandbox_gateway"), application_name="ears"))
    async with PostgresWakes(server) as wakes:
        await eventually(lambda: wakes.heard)
        yield wakes
    await server.close()


@pytest.mark.kafka
@pytest.mark.parametrize("patience_s", [0.0, 0.05], ids=["at once", "patient"])
async def test_a_fact_that_is_told_of_is_fetched_then_and_requests_are_asked_for(
    rig, monkeypatch, patience_s: float
) -> None:
    class Bell:
        heard = True

        def __init__(self) -> None:
            self.rings = {}

        def on(self, topic, ring) -> None:
            self.rings[topic] = ring

    monkeypatch.setattr(fetch_pace, "TOLD_S", (3600.0, 3600.0))
    if not rig.settings.kafka_adaptive_fetch:
        pytest.skip("this broker wakes its fetches itself")
    told, bell = Seen(), Bell()
    subscription = Subscription(
        rig.topics.build, f"{rig.topics.prefix}.told", {CheckpointSaved: told}, patience_s=patience_s
    )
    asked = Seen()
    requests = Subscription(rig.topics.requests, f"{rig.topics.prefix}.asked", {BuildRequested: asked})
    consumers = KafkaConsumers(
        rig.settings,
        [subscription, requests],
        producer=rig.producer,
        objects=rig.objects,
        wakes=bell,
        policy=QUICK,
    )
    async with rig.producer, consumers:
        await eventually(lambda: consumers.assigned)
        assert set(bell.rings) == {rig.topics.build}
        for version in range(1, 31):
            await rig.producer.send([Outgoing.of(rig.topics.build, fact("b", version))])
            bell.rings[rig.topics.build]()
            await eventually(lambda version=version: len(told.events) == version)
        await rig.producer.send([Outgoing.of(rig.topics.requests, request("b"))])
        await eventually(
            lambda: len(asked.events) == 1
        )  # nobody tells of requests, and they come all the same


async def test_the_relay_tells_each_topic_once_after_an_acknowledgement(database: Place) -> None:
    async with listening(database) as wakes:
        rung: list[str] = []
        for topic in ("build", "sandbox", "other"):
            wakes.on(topic, lambda topic=topic: rung.append(topic))
        sessions = PostgresLeaderSessions(
            database.dsn("nightshift_relay"), name="relay-test", leader_timeout_s=5, notify=True
        )
        async with sessions.open([0]) as session:
            assert await session.lead()
            lanes = [TopicPartition(topic, part) for topic in ("build", "sandbox") for part in (0, 1)]
            places = [LastPublished(lane, 1, uuid4(), "build-b", 1) for lane in lanes]
            await session.move({0: 1}, places)
            await session.move({0: 2}, [LastPublished(TopicPartition("other", 0), 1, uuid4(), "build-b", 2)])
            await eventually(lambda: "other" in rung)
        assert sorted(rung) == ["build", "other", "sandbox"]


async def test_after_a_lost_connection_everybody_is_rung(database: Place) -> None:
    async with listening(database) as wakes:
        rung: list[str] = []
        wakes.on("build", lambda: rung.append("build"))
        admin = await asyncpg.connect(database.dsn())
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ears'"
        )
        await eventually(lambda: not wakes.heard)
        await admin.execute(f"NOTIFY {CHANNEL}, 'build'")  # said to nobody
        assert rung == []
        await eventually(lambda: wakes.heard)
        assert rung == ["build"]
        await admin.execute(f"NOTIFY {CHANNEL}, 'build'")
        await eventually(lambda: len(rung) == 2)
        await admin.close()
