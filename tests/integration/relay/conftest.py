"""A group of shards in the test's process, on real servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from tests.integration.relay.relays import environment
from tests.support.stack import Database

from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress
from nightshift.eventlog.append_notification import CHANNEL
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.postgres import log_database
from nightshift.relay.adapters.append_listener import PostgresAppendListener
from nightshift.relay.adapters.kafka_session import KafkaConnector
from nightshift.relay.adapters.kafka_topics import ensure
from nightshift.relay.adapters.leader_session import PostgresLeaderSessions
from nightshift.relay.adapters.log_reader import PostgresLogReader
from nightshift.relay.settings import RelaySettings
from nightshift.relay.usecases.shard_group import GroupPorts, ShardGroup


@pytest.fixture
def settings(database: Database, kafka: KafkaAddress, topics: Topics) -> RelaySettings:
    """The relay's settings for this test's servers."""
    given = environment(database.dsn("nightshift_relay"), kafka, topics)
    return RelaySettings(**{name.removeprefix("NIGHTSHIFT_").lower(): value for name, value in given.items()})


@pytest.fixture
def group(settings: RelaySettings) -> Callable[..., Any]:
    """Return a context manager that runs a group of all shards: `async with group(sessions=…, brokers=…)`."""

    @contextlib.asynccontextmanager
    async def running(
        *,
        sessions: Any = None,
        brokers: Any = None,
        objects: MemoryObjectStore | None = None,
        lag_s: float = 5.0,
    ) -> AsyncIterator[asyncio.Task[None]]:
        dsn = settings.postgres_dsn.get_secret_value()
        database = log_database(PgConfig(dsn=dsn, max_connections=3))
        ports = GroupPorts(
            open_session=(
                sessions or PostgresLeaderSessions(dsn, name="relay-test", leader_timeout_s=5)
            ).open,
            connect=(brokers or KafkaConnector(settings, ack_timeout_s=settings.relay_ack_timeout_s)).connect,
            listen=PostgresAppendListener(database, channel=CHANNEL).listen,
            log=PostgresLogReader(database),
            database_answers=database.answers,
            objects=objects or MemoryObjectStore(),
            ensure_topics=partial(ensure, settings, create=False, partitions=None, replication=None),
        )
        one = ShardGroup(0, ports, replace(settings.group(), lag_s=lag_s))
        task = asyncio.create_task(one.run())
        try:
            yield task
        finally:
            one.stop()
            await asyncio.wait([task], timeout=10)
            await database.close()

    return running
