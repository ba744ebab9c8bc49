"""Makes the relay's clients and starts a task for each group of shards.

There is no handlers.py, because the relay consumes no topic.
"""

import asyncio
from contextlib import suppress
from functools import partial
from typing import NoReturn

from nightshift.bus.kafka.topic_check import require_topics
from nightshift.eventlog.append_notification import CHANNEL
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.preconditions import check_database
from nightshift.relay.adapters.append_listener import PostgresAppendListener
from nightshift.relay.adapters.kafka_session import KafkaConnector
from nightshift.relay.adapters.kafka_topics import ensure
from nightshift.relay.adapters.leader_session import PostgresLeaderSessions
from nightshift.relay.adapters.log_reader import PostgresLogReader
from nightshift.relay.settings import RelaySettings
from nightshift.relay.usecases.shard_group import GroupPorts, ShardGroup
from nightshift.servicekit import service
from nightshift.servicekit.connect import open_database, open_objects, report_replica

NAME = "relay"
ROLE = "nightshift_relay"


async def start(running: service.Service[RelaySettings]) -> None:
    """Make the clients, and start a task for each group of shards."""
    settings, config = running.settings, running.settings.group()
    dsn, name = settings.postgres_dsn.get_secret_value(), f"nightshift-relay {settings.replica_id}"
    database = open_database(running, application_name=name, max_connections=2 * settings.relay_groups)
    await check_database(database, ROLE)
    report_replica(running, database)
    if not settings.relay_create_topics:
        with suppress(Unavailable):
            await require_topics(settings, settings.topics.facts)
    ports = GroupPorts(
        open_session=PostgresLeaderSessions(
            dsn,
            name=name,
            leader_timeout_s=settings.relay_leader_timeout_s,
            notify=settings.kafka_adaptive_fetch,
        ).open,
        connect=KafkaConnector(settings, ack_timeout_s=settings.relay_ack_timeout_s).connect,
        listen=PostgresAppendListener(database, channel=CHANNEL).listen,
        log=PostgresLogReader(database),
        database_answers=database.answers,
        objects=await open_objects(running),
        ensure_topics=partial(
            ensure,
            settings,
            create=settings.relay_create_topics,
            partitions=settings.relay_topic_partitions,
            replication=settings.relay_topic_replication,
        ),
    )
    groups = [ShardGroup(number, ports, config) for number in range(config.groups)]
    running.ready_when("log", lambda: all(group.connected for group in groups))
    for group in groups:
        task = running.spawn(group.run(), name=f"group {group.name}")
        running.on_stop(partial(_finish, group, task))


async def _finish(group: ShardGroup, task: asyncio.Task[None]) -> None:
    group.stop()
    await asyncio.wait([task])


def main() -> NoReturn:
    """Run the relay and exit the process with its exit code."""
    service.run(NAME, RelaySettings.load, start)
