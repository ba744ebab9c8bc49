"""On a broker that does not wake fetches, notified records are fetched at once and others a little later."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest
from tests.support.bus_suite import QUICK, Seen, fact, request
from tests.support.stack import Database as Place
from tests.support.waiting import eventually

from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.embedded import fetch_throttle, strategy
from nightshift.bus.kafka.embedded.publish_notifications import PostgresPublishNotifications
from nightshift.bus.port import Outgoing, Subscription, TopicPartition
from nightshift.bus.publish_notifications import CHANNEL
from nightshift.contracts.events.build import CheckpointSaved
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.database import Database, PgConfig
from nightshift.relay.adapters.leader_session import PostgresLeaderSessions
from nightshift.relay.domain.records import LastPublished


@asynccontextmanager
async def listening(place: Place) -> AsyncIterator[PostgresPublishNotifications]:
    server = Database(PgConfig(dsn=place.dsn("nightshift_sandbox_gateway"), application_name="ears"))
    async with PostgresPublishNotifications(server) as notifications:
        await eventually(lambda: notifications.connected)
        yield notifications
    await server.close()


@pytest.mark.kafka
@pytest.mark.parametrize("max_fetch_delay_s", [0.0, 0.05], ids=["at once", "delayed"])
async def test_notified_facts_are_fetched_and_requests_are_polled(
    rig, monkeypatch, max_fetch_delay_s: float
) -> None:
    class Notifications:
        connected = True

        def __init__(self, database) -> None:
            self.subscribers = {}

        def subscribe(self, topic, notify) -> None:
            self.subscribers[topic] = notify

        async def __aenter__(self):
            return self

        async def __aexit__(self, *exc) -> None: ...

    monkeypatch.setattr(fetch_throttle, "NOTIFIED_S", (3600.0, 3600.0))
    if not rig.settings.kafka_adaptive_fetch:
        pytest.skip("this broker wakes its fetches itself")
    told, made = Seen(), []
    monkeypatch.setattr(
        strategy,
        "PostgresPublishNotifications",
        lambda database: made.append(Notifications(database)) or made[0],
    )
    subscription = Subscription(
        rig.topics.build,
        f"{rig.topics.prefix}.told",
        {CheckpointSaved: told},
        max_fetch_delay_s=max_fetch_delay_s,
    )
    asked = Seen()
    requests = Subscription(rig.topics.requests, f"{rig.topics.prefix}.asked", {BuildRequested: asked})
    consumers = KafkaConsumers(
        rig.settings,
        [subscription, requests],
        producer=rig.producer,
        objects=rig.objects,
        database=Database(PgConfig(dsn="postgresql://unused")),
        policy=QUICK,
    )
    async with rig.producer, consumers:
        await eventually(lambda: consumers.assigned)
        assert set(made[0].subscribers) == {rig.topics.build}
        for version in range(1, 31):
            await rig.producer.send([Outgoing.of(rig.topics.build, fact("b", version))])
            made[0].subscribers[rig.topics.build]()
            await eventually(lambda version=version: len(told.events) == version)
        await rig.producer.send([Outgoing.of(rig.topics.requests, request("b"))])
        await eventually(lambda: len(asked.events) == 1)  # nobody notifies of requests


async def test_relay_notifies_each_topic_once_per_acknowledgement(database: Place) -> None:
    async with listening(database) as notifications:
        notified: list[str] = []
        for topic in ("build", "sandbox", "other"):
            notifications.subscribe(topic, lambda topic=topic: notified.append(topic))
        sessions = PostgresLeaderSessions(
            database.dsn("nightshift_relay"), name="relay-test", leader_timeout_s=5, notify=True
        )
        async with sessions.open([0]) as session:
            assert await session.lead()
            partitions = [TopicPartition(topic, part) for topic in ("build", "sandbox") for part in (0, 1)]
            places = [LastPublished(one, 1, uuid4(), "build-b", 1) for one in partitions]
            await session.move({0: 1}, places)
            await session.move({0: 2}, [LastPublished(TopicPartition("other", 0), 1, uuid4(), "build-b", 2)])
            await eventually(lambda: "other" in notified)
        assert sorted(notified) == ["build", "other", "sandbox"]


async def test_everybody_is_notified_after_a_lost_connection(database: Place) -> None:
    async with listening(database) as notifications:
        notified: list[str] = []
        notifications.subscribe("build", lambda: notified.append("build"))
        admin = await asyncpg.connect(database.dsn())
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ears'"
        )
        await eventually(lambda: not notifications.connected)
        await admin.execute(f"NOTIFY {CHANNEL}, 'build'")  # nobody listens
        assert notified == []
        await eventually(lambda: notifications.connected)
        assert notified == ["build"]
        await admin.execute(f"NOTIFY {CHANNEL}, 'build'")
        await eventually(lambda: len(notified) == 2)
        await admin.close()
