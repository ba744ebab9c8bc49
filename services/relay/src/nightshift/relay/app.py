"""Composition root of the relay: the only place that makes its clients."""

import asyncio
from functools import partial

from nightshift.bus.kafka.credentials import connection_arguments
from nightshift.eventlog.append_notification import CHANNEL
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.port import SHARDS
from nightshift.eventlog.postgres import log_database
from nightshift.relay.adapters.kafka_broker import KafkaBrokers
from nightshift.relay.adapters.kafka_topics import ensure
from nightshift.relay.adapters.postgres import PgSessions, PgSource
from nightshift.relay.adapters.postgres_hints import PgHints
from nightshift.relay.domain.polling import Pace
from nightshift.relay.domain.records import shards_of
from nightshift.relay.ports import Brokers, HintSource, Sessions, Source
from nightshift.relay.settings import RelaySettings
from nightshift.relay.usecases.check import Check
from nightshift.relay.usecases.encode import Encoder
from nightshift.relay.usecases.lead import Group, Times
from nightshift.relay.usecases.publish import Limits, Publish, Watch
from nightshift.servicekit import service

NAME = "relay"


async def start(running: service.Service[RelaySettings]) -> None:
    """Make the groups and run them."""
    settings = running.settings
    dsn, name = settings.postgres_dsn.get_secret_value(), f"nightshift-relay {settings.replica_id}"
    database = log_database(
        PgConfig(dsn=dsn, application_name=name, max_connections=2 * settings.relay_groups)
    )
    running.on_stop(database.close)
    objects = await running.enter(S3ObjectStore.from_settings(settings))
    source, sessions = (
        PgSource(database),
        PgSessions(
            dsn,
            name=name,
            leader_timeout_s=settings.relay_leader_timeout_s,
            tell=settings.kafka_adaptive_fetch,
        ),
    )
    brokers = make_brokers(settings)
    hints = PgHints(dsn, name=name, channel=CHANNEL)
    groups = [
        make_group(
            settings, number, sessions=sessions, brokers=brokers, hints=hints, source=source, objects=objects
        )
        for number in range(settings.relay_groups)
    ]
    running.ready_when("log", lambda: all(group.connected for group in groups))
    for group in groups:
        task = running.spawn(group.run(), name=f"group {group.name}")
        running.on_stop(partial(_finish, group, task))


def make_group(
    settings: RelaySettings,
    number: int,
    *,
    sessions: Sessions,
    brokers: Brokers,
    hints: HintSource,
    source: Source,
    objects: ObjectStore,
) -> Group:
    """One group of shards with all it needs."""
    name, watch = str(number), Watch()
    encoder = Encoder(settings.topics, objects, inline_bytes=settings.relay_inline_bytes)
    limits = Limits(max_events=settings.relay_batch_events, max_bytes=settings.relay_batch_bytes)
    return Group(
        name=name,
        shards=shards_of(number, settings.relay_groups, SHARDS),
        sessions=sessions,
        brokers=brokers,
        hints=hints,
        source=source,
        check=Check(source, encoder, group=name, accept_divergence=settings.relay_accept_divergence),
        publish=Publish(source, encoder, watch, group=name, pace=Pace(), limits=limits),
        watch=watch,
        ensure_topics=partial(
            ensure,
            settings,
            create=settings.relay_create_topics,
            partitions=settings.relay_topic_partitions,
            replication=settings.relay_topic_replication,
        ),
        times=Times(heartbeat=settings.relay_leader_timeout_s / 5, stand_by=settings.relay_stand_by_s),
    )


def make_brokers(settings: RelaySettings) -> KafkaBrokers:
    """What opens sessions with the broker."""
    return KafkaBrokers(
        connection_arguments(settings),
        topics=settings.topics.facts,
        idempotence=settings.kafka_idempotence,
        compression=None if settings.kafka_compression == "none" else settings.kafka_compression,
        batch_bytes=settings.kafka_max_message_bytes,
        ack_timeout_s=settings.relay_ack_timeout_s,
    )


async def _finish(group: Group, task: "asyncio.Task[None]") -> None:
    group.stop()
    await asyncio.wait([task])


def main() -> None:
    """Run until told to stop."""
    service.run(NAME, RelaySettings.load, start)
