"""The relay publishes every event of the log, in order and with its envelope, whatever fails in between."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from uuid import uuid4

import asyncpg
import pytest
from tests.integration.relay.reading import in_log, reading
from tests.integration.relay.writing import (
    AgentSteered,
    SandboxClosed,
    append_some,
    checkpoint,
    log_on,
    new,
)
from tests.support.stack import Database
from tests.support.tcp_proxy import tcp_proxy
from tests.support.waiting import eventually

from nightshift.bus.port import TopicPartition
from nightshift.contracts.cloudevents import decode_fact
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress, PostgresAddress
from nightshift.eventlog.errors import ConfigurationError, Unavailable
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import SHARDS, build_stream
from nightshift.relay.adapters.kafka_session import KafkaConnector, KafkaSession
from nightshift.relay.adapters.leader_session import PostgresLeaderSession, PostgresLeaderSessions
from nightshift.relay.adapters.pooler_check import refuse_pooler
from nightshift.relay.domain.errors import LeadershipLost
from nightshift.relay.domain.records import LastPublished, Record
from nightshift.relay.ports import Ack
from nightshift.relay.settings import RelaySettings

pytestmark = pytest.mark.kafka


async def test_events_arrive_in_order_with_envelope_and_bytes(
    database: Database, kafka: KafkaAddress, topics: Topics, group
):
    async with log_on(database.dsn()) as log, group(), reading(kafka.bootstrap, topics) as reader:
        await append_some(log, "b1", 3)
        await log.append(build_stream("b1"), [new(SandboxClosed(sandbox_id="s", reason="done"))])
        await append_some(log, "b1", 1)
        await eventually(lambda: reader.count == 5)
        watch = await asyncpg.connect(database.dsn())
        row = await watch.fetchrow("SELECT * FROM nightshift.events WHERE version = 4")
        assert reader.seen == await in_log(watch, topics)
        await watch.close()
    assert reader.seen[topics.build, "b1"] == [1, 2, 3, 5]
    headers = reader.headers[topics.sandbox, "b1", 4]
    assert reader.values[topics.sandbox, "b1", 4] == row["data"].encode()
    assert headers["content-type"] == b"application/json"
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_id"] == str(row["event_id"]).encode()
    assert headers["ce_type"] == b"nightshift.sandbox.closed.v1"
    assert headers["ce_subject"] == b"b1"
    assert headers["ce_sequence"] == b"0000000000000000004"
    assert headers["ce_causationid"] == str(row["causation_id"]).encode()
    assert headers["ce_correlationid"] == row["correlation_id"].encode()
    received = decode_fact(b"b1", list(headers.items()), reader.values[topics.sandbox, "b1", 4])
    assert received.event == SandboxClosed(sandbox_id="s", reason="done")


async def test_a_large_event_is_published_by_reference(
    database: Database, kafka: KafkaAddress, topics: Topics, group
):
    objects = MemoryObjectStore()
    event = AgentSteered(reason="person", message="ä" * 200_000)
    async with (
        log_on(database.dsn()) as log,
        group(objects=objects),
        reading(kafka.bootstrap, topics) as reader,
    ):
        await log.append(build_stream("b1"), [checkpoint(), new(event), checkpoint()])
        await eventually(lambda: reader.count == 3)
    headers, value = reader.headers[topics.build, "b1", 2], reader.values[topics.build, "b1", 2]
    assert value == b"{}"
    data = await objects.get(headers["ce_dataref"].decode())
    assert decode_fact(b"b1", list(headers.items()), value, data=data).event == event
    assert "ce_dataref" not in reader.headers[topics.build, "b1", 3]


class _Flaky:
    """A connector whose sends fail partly: each partition gets all, some or none of its records."""

    def __init__(self, inner: KafkaConnector, dice: random.Random) -> None:
        self._inner = inner
        self._dice = dice
        self.failures = 0

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[KafkaSession]:
        async with self._inner.connect() as broker:
            send = broker.send

            async def flaky(records: Mapping[TopicPartition, Sequence[Record]]) -> Sequence[Ack]:
                if self._dice.random() < 0.5:
                    return await send(records)
                parts = {
                    where: some[: self._dice.randrange(len(some) + 1)] for where, some in records.items()
                }
                await send({where: some for where, some in parts.items() if some})
                self.failures += 1
                raise Unavailable("made to fail")

            broker.send = flaky
            yield broker


@pytest.mark.fault
async def test_a_partly_failed_send_keeps_the_order(
    database: Database, kafka: KafkaAddress, topics: Topics, settings: RelaySettings, group
):
    flaky = _Flaky(KafkaConnector(settings, ack_timeout_s=settings.relay_ack_timeout_s), random.Random(7))
    async with (
        log_on(database.dsn()) as log,
        group(brokers=flaky),
        reading(kafka.bootstrap, topics) as reader,
    ):
        written = 0
        while flaky.failures < 8:
            await asyncio.gather(*(append_some(log, f"b{build}", 5) for build in range(6)))
            written += 30
            await eventually(lambda: reader.count >= written, 30)  # noqa: B023 - asked before it changes
        watch = await asyncpg.connect(database.dsn())
        expected = await in_log(watch, topics)
        await watch.close()
    assert reader.seen == expected
    assert reader.dropped > 0


class _Slow:
    """Sessions whose cursor moves wait for `gate`. `steps` lists what was read, sent and moved, in order."""

    def __init__(self, dsn: str, brokers: KafkaConnector) -> None:
        self._sessions = PostgresLeaderSessions(dsn, name="relay-test", leader_timeout_s=5)
        self._brokers = brokers
        self.steps: list[str] = []
        self.opened = 0
        self.gate = asyncio.Event()
        self.lost = False

    @contextlib.asynccontextmanager
    async def open(self, shards: Sequence[int]) -> AsyncIterator[PostgresLeaderSession]:
        async with self._sessions.open(shards) as session:
            self.opened += 1
            move = session.move

            async def slow(cursors: Mapping[int, int], published: Sequence[LastPublished]) -> None:
                self.steps.append("moves")
                await self.gate.wait()
                if self.lost:
                    self.lost = False
                    raise LeadershipLost("made to fail")
                await move(cursors, published)
                self.steps.append("moved")

            session.move = slow
            yield session

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[KafkaSession]:
        async with self._brokers.connect() as broker:
            partition_of, send = broker.partition_of, broker.send

            def noted(topic: str, key: bytes) -> TopicPartition:
                self.steps.append("read")
                return partition_of(topic, key)

            async def sending(records: Mapping[TopicPartition, Sequence[Record]]) -> Sequence[Ack]:
                self.steps.append("sent")
                return await send(records)

            broker.partition_of, broker.send = noted, sending
            yield broker


async def test_the_next_batch_is_sent_after_the_cursors_moved(
    database: Database, kafka: KafkaAddress, topics: Topics, settings: RelaySettings, group
):
    slow = _Slow(
        settings.postgres_dsn.get_secret_value(),
        KafkaConnector(settings, ack_timeout_s=settings.relay_ack_timeout_s),
    )
    async with log_on(database.dsn()) as log, group(sessions=slow, brokers=slow):
        await append_some(log, "b1", 1)
        await eventually(lambda: slow.steps == ["read", "sent", "moves"])
        await append_some(log, "b1", 1)
        await eventually(lambda: slow.steps[3:] == ["read"])
        for _ in range(100):  # as long as a loop that waits for nothing would need for its next step
            await asyncio.sleep(0)
        slow.gate.set()
        await eventually(lambda: slow.steps.count("moved") == 2)
    assert slow.steps == ["read", "sent", "moves", "read", "moved", "sent", "moves", "moved"]


async def test_a_failed_cursor_move_ends_the_leadership(
    database: Database, kafka: KafkaAddress, topics: Topics, settings: RelaySettings, group
):
    slow = _Slow(
        settings.postgres_dsn.get_secret_value(),
        KafkaConnector(settings, ack_timeout_s=settings.relay_ack_timeout_s),
    )
    slow.lost = True
    async with (
        log_on(database.dsn()) as log,
        group(sessions=slow, brokers=slow),
        reading(kafka.bootstrap, topics) as reader,
    ):
        await append_some(log, "b1", 1)
        await eventually(lambda: slow.steps == ["read", "sent", "moves"])
        slow.gate.set()
        await eventually(lambda: slow.opened == 2 and slow.steps[-1] == "moved", what="the next lead")
        await eventually(lambda: reader.dropped == 1)  # sent again: the acknowledgement was not stored
    assert reader.seen == {(topics.build, "b1"): [1]}


async def test_a_stopping_leader_moves_the_cursors_first(
    database: Database, kafka: KafkaAddress, topics: Topics, settings: RelaySettings, group
):
    slow = _Slow(
        settings.postgres_dsn.get_secret_value(),
        KafkaConnector(settings, ack_timeout_s=settings.relay_ack_timeout_s),
    )
    async with log_on(database.dsn()) as log, group(sessions=slow, brokers=slow):
        await append_some(log, "b1", 1)
        await eventually(lambda: slow.steps == ["read", "sent", "moves"])
        asyncio.get_running_loop().call_later(0.3, slow.gate.set)  # the loop has ended by then
    assert slow.steps[-1] == "moved"


async def test_cursors_move_only_forward_and_only_for_the_leader(database: Database):
    sessions = PostgresLeaderSessions(database.dsn("nightshift_relay"), name="test", leader_timeout_s=5)
    watch = await asyncpg.connect(database.dsn())
    async with sessions.open(range(SHARDS)) as session, sessions.open(range(SHARDS)) as other:
        assert await session.lead()
        assert not await other.lead()
        await session.move({3: 10, 4: 5}, [])
        await session.move({3: 9, 4: 6}, [])
        cursors = await session.cursors()
        assert (cursors.positions[3], cursors.positions[4]) == (10, 6)
        where = TopicPartition("topic", 0)
        newest, older = [LastPublished(where, offset, uuid4(), "build-b1", 1) for offset in (7, 6)]
        await session.move({}, [newest])
        await session.move({}, [older])  # as from a leader that was paused
        assert await session.last_published() == [newest]
        await watch.execute(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE l.classid = 20042 AND l.objid = 0"
        )
        with pytest.raises(LeadershipLost):
            await session.move({3: 11}, [])

        async def leads() -> bool:
            return await other.lead()

        await eventually(leads, 5, promised=True)
        assert (await other.cursors()).positions[3] == 10
    await watch.close()


async def test_a_paused_leader_loses_its_locks(database: Database):
    sessions = PostgresLeaderSessions(database.dsn("nightshift_relay"), name="test", leader_timeout_s=0.5)
    async with sessions.open(range(SHARDS)) as paused, sessions.open(range(SHARDS)) as other:
        assert await paused.lead()  # and then nothing, as a paused process does

        async def leads() -> bool:
            return await other.lead()

        await eventually(leads, 5, promised=True)
        with pytest.raises(LeadershipLost):
            await paused.move({3: 11}, [])


async def test_a_leader_silent_after_any_message_loses_its_locks(database: Database):
    """The server's idle timeout runs only between statements, so a leader must never pause within one."""
    server, asked = database.server, 0

    async def lead_until_silent(shard: int) -> None:
        nonlocal asked
        async with tcp_proxy(server.host, server.port) as proxy:
            near = PostgresAddress(proxy.host, proxy.own_port).dsn("nightshift_relay", database.name)
            sessions = PostgresLeaderSessions(near, name="silent", leader_timeout_s=1.5)
            async with sessions.open([shard]) as session, direct.open([shard]) as other:
                assert await session.lead()
                proxy.let_pass = shard
                with contextlib.suppress(LeadershipLost):
                    await session.newest_loss()
                    await session.cursors()
                    await session.last_published()
                    await session.move({shard: 1}, [])
                    await session.note_loss("test", 0)
                    await session.republished([shard], 1)
                asked = max(asked, shard - (proxy.let_pass or 0))
                await eventually(other.lead, 10, what=f"the locks of who fell silent after {shard} messages")

    direct = PostgresLeaderSessions(database.dsn("nightshift_relay"), name="other", leader_timeout_s=30)
    await asyncio.gather(*map(lead_until_silent, range(9)))
    assert asked == 6  # one message a statement, and every place between them was tried


async def test_a_crash_after_any_answer_is_a_transient_error(database: Database):
    """A crash at any moment, also while a session opens, raises LeadershipLost or Unavailable."""
    server, whole = database.server, 0

    async def lead_until_crash(answers: int) -> None:
        nonlocal whole
        async with tcp_proxy(server.host, server.port) as proxy:
            near = PostgresAddress(proxy.host, proxy.own_port).dsn("nightshift_relay", database.name)
            sessions = PostgresLeaderSessions(near, name="crash", leader_timeout_s=5, notify=True)
            proxy.crash_after = answers
            with contextlib.suppress(LeadershipLost, Unavailable):
                async with sessions.open([answers % SHARDS]) as session:
                    await session.lead()
                    await session.cursors()
                    await session.move({answers % SHARDS: 1}, [_published(answers)])
                    await session.newest_loss()
                    whole += 1

    for begin in range(0, 64, 16):
        await asyncio.gather(*map(lead_until_crash, range(begin, begin + 16)))
    assert whole, "every place was tried"


def _published(offset: int) -> LastPublished:
    return LastPublished(TopicPartition("topic", offset), offset, uuid4(), "build/b1", 1)


class _Pooled:
    """A connection through a transaction pooler: each transaction gets a free server process."""

    def __init__(self, servers: list[asyncpg.Connection]) -> None:
        self._servers = servers
        self._mine: asyncpg.Connection | None = None

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        if self._mine is not None:
            yield
            return
        self._mine = self._servers.pop()
        try:
            async with self._mine.transaction():
                yield
        finally:
            self._servers.append(self._mine)
            self._mine = None

    async def fetchval(self, query: str) -> object:
        assert self._mine is not None
        return await self._mine.fetchval(query)


async def test_only_a_transaction_pooler_is_refused(database: Database):
    first, second = [await asyncpg.connect(database.dsn("nightshift_relay")) for _ in range(2)]
    await refuse_pooler(first, second)
    servers = [first, second]
    with pytest.raises(ConfigurationError, match="pools by transaction"):
        await refuse_pooler(_Pooled(servers), _Pooled(servers))
    await first.close()
    await second.close()
