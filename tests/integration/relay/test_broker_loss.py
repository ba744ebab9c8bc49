"""A broker loses its data: killed and restarted empty, with or without new records before the relay checks it."""

import contextlib
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from tests.integration.relay.reading import Seen, in_log, reading
from tests.integration.relay.relays import Relays, environment, leader, relays
from tests.integration.relay.writing import BuildCancelled, append_some, log_on, new
from tests.support.stack import Database
from tests.support.waiting import eventually

from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import EmbeddedKafka, KafkaAddress
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.port import Row, build_stream
from nightshift.relay.adapters.kafka_session import KafkaConnector
from nightshift.relay.adapters.kafka_topics import apply
from nightshift.relay.domain.data_loss import OffsetRange
from nightshift.relay.domain.records import Record
from nightshift.relay.settings import RelaySettings

# On an embedded broker of its own, in every test run: it must forget.
pytestmark = [pytest.mark.fault, pytest.mark.timeout(150)]

TOPICS = Topics("lost")


class Broker:
    """A broker for one test. It can be killed and restarted empty on the same port."""

    def __init__(self, part: EmbeddedKafka, address: KafkaAddress) -> None:
        self._part = part
        self.address = address

    async def kill(self) -> None:
        """Kill it. Its data is lost."""
        self._part.child.signal(signal.SIGKILL)
        await self._part.child.wait()

    async def start(self) -> None:
        """Restart it, empty."""
        await self._part.start()

    async def create_topics(self) -> None:
        """Create the topics with two partitions each."""
        settings = KafkaSettings(kafka_bootstrap=self.address.bootstrap, topic_prefix=TOPICS.prefix)
        await apply(settings, partitions=2, replication=1)


@pytest.fixture
async def broker(stack_folder: Path) -> AsyncIterator[Broker]:
    part = EmbeddedKafka(stack_folder)
    one = Broker(part, await part.start())
    await one.create_topics()
    try:
        yield one
    finally:
        await part.stop()


@contextlib.asynccontextmanager
async def running(folder: Path, database: Database, broker: Broker) -> AsyncIterator[Relays]:
    async with relays(
        folder,
        database,
        broker.address,
        TOPICS,
        NIGHTSHIFT_RELAY_CREATE_TOPICS="true",
        NIGHTSHIFT_RELAY_TOPIC_PARTITIONS="2",
        NIGHTSHIFT_RELAY_TOPIC_REPLICATION="1",
    ) as one:
        await one.start()
        yield one


@pytest.fixture
async def watch(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.dsn())
    yield connection
    await connection.close()


async def unfinished(watch: asyncpg.Connection) -> Seen:
    return await in_log(
        watch,
        TOPICS,
        where="EXISTS (SELECT FROM nightshift.streams s WHERE s.stream_id = e.stream_id AND s.closed_at IS NULL)",
    )


async def all_published(bootstrap: str, expected: Seen) -> None:
    """Check that a consumer that starts now reads every one of these events, in order."""
    async with reading(bootstrap, TOPICS) as reader:
        await eventually(
            lambda: all(reader.seen.get(key) == versions for key, versions in expected.items()),
            20,
            what="all events of unfinished builds",
        )


async def test_an_empty_broker_gets_unfinished_builds_again(
    database: Database, broker: Broker, watch: asyncpg.Connection, tmp_path: Path
):
    async with log_on(database.dsn()) as log, running(tmp_path, database, broker) as relay:
        for build in range(5):
            await append_some(log, f"b{build}", 4)
        await log.append(build_stream("b0"), [new(BuildCancelled(reason="x", cost_microusd=0, turns=1))])
        # What ends a build may leave something to do; this one is over and done with.
        await watch.execute("DELETE FROM nightshift.pending WHERE stream_id = 'build-b0'")
        await all_published(broker.address.bootstrap, await in_log(watch, TOPICS))
        await broker.kill()
        await broker.start()
        expected = await unfinished(watch)
        assert len(expected) == 4
        await all_published(broker.address.bootstrap, expected)
        async with reading(broker.address.bootstrap, TOPICS) as reader:
            await eventually(lambda: reader.count >= 16)
            assert "b0" not in {build for _, build in reader.seen}
        assert "broker.data_lost" in relay.logged()


async def test_a_session_never_reaches_a_restarted_broker(database: Database, broker: Broker):
    """A session must not send to a restarted broker: its events are newer than those that were lost."""
    given = environment(database.dsn("nightshift_relay"), broker.address, TOPICS)
    settings = RelaySettings(
        **{name.removeprefix("NIGHTSHIFT_").lower(): value for name, value in given.items()}
    )
    async with KafkaConnector(settings, ack_timeout_s=settings.relay_ack_timeout_s).connect() as session:
        where = session.partition_of(TOPICS.build, b"b1")
        row = Row(0, 1, "build-b1", 1, uuid4(), "t", 1, "{}", "b1", uuid4(), "relay", None, datetime.now(UTC))
        record = Record(where, b"b1", b"{}", [], row)
        assert [ack.first for ack in await session.send({where: [record]})] == [0]
        await broker.kill()
        await broker.start()
        await broker.create_topics()
        with pytest.raises(Unavailable):
            await session.send({where: [record]})
        async with KafkaConnector(settings, ack_timeout_s=settings.relay_ack_timeout_s).connect() as later:
            assert await later.offset_ranges(later.partitions()) == {
                one: OffsetRange(0, 0) for one in later.partitions()
            }


async def test_old_events_are_republished_before_new_ones(
    database: Database, broker: Broker, watch: asyncpg.Connection, tmp_path: Path
):
    async with log_on(database.dsn()) as log, running(tmp_path, database, broker):
        await append_some(log, "b1", 5)
        await all_published(broker.address.bootstrap, await in_log(watch, TOPICS))
        for _ in range(3):
            await broker.kill()
            await append_some(log, "b1", 3)
            await broker.start()
            await append_some(log, "b1", 3)
            await all_published(broker.address.bootstrap, await in_log(watch, TOPICS))


async def test_foreign_records_do_not_hide_a_loss(
    database: Database, broker: Broker, watch: asyncpg.Connection, tmp_path: Path
):
    async with log_on(database.dsn()) as log, running(tmp_path, database, broker) as relay:
        await append_some(log, "b1", 5)
        await append_some(log, "b2", 5)
        async with reading(broker.address.bootstrap, TOPICS) as reader:
            await eventually(lambda: reader.count == 10)
        await relay.kill_all()
        await broker.kill()
        await broker.start()
        await append_some(log, "b2", 1)
        # A leader that was paused wakes up and sends what it held: the newest events, into empty topics.
        producer = AIOKafkaProducer(bootstrap_servers=broker.address.bootstrap)
        await producer.start()
        for partition in range(2):
            for version in range(30):
                await producer.send_and_wait(
                    TOPICS.build,
                    reader.values[TOPICS.build, "b1", 5],
                    key=b"b1",
                    partition=partition,
                    headers=list(reader.headers[TOPICS.build, "b1", 5].items()),
                )
                del version
        await producer.stop()
        await relay.start()
        expected = await unfinished(watch)
        async with reading(broker.address.bootstrap, TOPICS) as late:
            await eventually(
                lambda: all(versions == _after_strays(late.raw[key]) for key, versions in expected.items()),
                20,
            )


def _after_strays(versions: list[int]) -> list[int]:
    """Return the versions from version 1 on: those that the relay sent after the stray records."""
    return versions[versions.index(1) :] if 1 in versions else []


async def test_no_event_is_lost_while_the_broker_is_down(
    database: Database, broker: Broker, watch: asyncpg.Connection, tmp_path: Path
):
    async with log_on(database.dsn()) as log, running(tmp_path, database, broker) as relay:
        await append_some(log, "b1", 3)
        await eventually(lambda: leader(watch), 10)
        await broker.kill()
        await append_some(log, "b1", 3)
        await eventually(lambda: "publishing.interrupted" in relay.logged(), 15)
        await append_some(log, "b2", 3)
        await broker.start()
        await all_published(broker.address.bootstrap, await in_log(watch, TOPICS))
