"""What is in the log comes to the topics: in order, whole, with its envelope, whatever fails between."""

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

from nightshift.contracts.cloudevents import decode_fact
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress, PostgresAddress
from nightshift.eventlog.errors import ConfigurationError, Unavailable
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import SHARDS, build_stream
from nightshift.relay.adapters.kafka_broker import KafkaBroker, KafkaConnector
from nightshift.relay.adapters.postgres import PostgresLeaderSession, PostgresLeaderSessions, refuse_pooler
from nightshift.relay.domain.errors import LeadershipLost
from nightshift.relay.domain.records import Lane, LastPublished, Record
from nightshift.relay.ports import Ack
from nightshift.relay.settings import RelaySettings

pytestmark = pytest.mark.kafka


async def test_events_come_in_order_with_their_envelope_and_their_bytes(
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


async def test_a_large_event_goes_by_reference(
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
    """BrokerConnector whose sends fail in the middle: some lanes go through, some in part, some not at all."""

    def __init__(self, inner: KafkaConnector, dice: random.Random) -> None:
        self._inner = inner
        self._dice = dice
        self.failures = 0

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[KafkaBroker]:
        async with self._inner.connect() as broker:
            send = broker.send

            async def flaky(lanes: Mapping[Lane, Sequence[Record]]) -> Sequence[Ack]:
                if self._dice.random() < 0.5:
                    return await send(lanes)
                parts = {
                    lane: records[: self._dice.randrange(len(records) + 1)] for lane, records in lanes.items()
                }
                await send({lane: records for lane, records in parts.items() if records})
                self.failures += 1
                raise Unavailable("made to fail")

            broker.send = flaky
            yield broker


@pytest.mark.fault
async def test_a_send_that_fails_in_the_middle_lets_no_later_event_overtake(
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
        told = await in_log(watch, topics)
        await watch.close()
    assert reader.seen == told
    assert reader.dropped > 0


class _Slow:
    """LeaderSessions whose moves of the cursors wait to be let through; `told` has what was sent and moved, in order."""

    def __init__(self, dsn: str, brokers: KafkaConnector) -> None:
        self._sessions = PostgresLeaderSessions(dsn, name="relay-test", leader_timeout_s=5)
        self._brokers = brokers
        self.told: list[str] = []
        self.opened = 0
        self.gate = asyncio.Event()
        self.lost = False

    @contextlib.asynccontextmanager
    async def open(self, shards: Sequence[int]) -> AsyncIterator[PostgresLeaderSession]:
        async with self._sessions.open(shards) as session:
            self.opened += 1
            move = session.move

            async def slow(cursors: Mapping[int, int], published: Sequence[LastPublished]) -> None:
                self.told.append("moves")
                await self.gate.wait()
                if self.lost:
                    self.lost = False
                    raise LeadershipLost("made to fail")
                await move(cursors, published)
                self.told.append("moved")

            session.move = slow
            yield session

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[KafkaBroker]:
        async with self._brokers.connect() as broker:
            lane, send = broker.lane, broker.send

            def reading_lane(topic: str, key: bytes) -> Lane:
                self.told.append("read")
                return lane(topic, key)

            async def sending(lanes: Mapping[Lane, Sequence[Record]]) -> Sequence[Ack]:
                self.told.append("sent")
                return await send(lanes)

            broker.lane, broker.send = reading_lane, sending
            yield broker


async def test_what_comes_next_is_read_while_the_cursors_move_and_sent_when_they_have(
    database: Database, kafka: KafkaAddress, topics: Topics, settings: RelaySettings, group
):
    slow = _Slow(
        settings.postgres_dsn.get_secret_value(),
        KafkaConnector(settings, ack_timeout_s=settings.relay_ack_timeout_s),
    )
    async with log_on(database.dsn()) as log, group(sessions=slow, brokers=slow):
        await append_some(log, "b1", 1)
        await eventually(lambda: slow.told == ["read", "sent", "moves"])
        await append_some(log, "b1", 1)
        await eventually(lambda: slow.told[3:] == ["read"])
        for _ in range(100):  # as long as a loop that waits for nothing would need for its next step
            await asyncio.sleep(0)
        slow.gate.set()
        await eventually(lambda: slow.told.count("moved") == 2)
    assert slow.told == ["read", "sent", "moves", "read", "moved", "sent", "moves", "moved"]


async def test_a_move_that_fails_ends_the_lead_though_nothing_more_comes(
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
        await eventually(lambda: slow.told == ["read", "sent", "moves"])
        slow.gate.set()
        await eventually(lambda: slow.opened == 2 and slow.told[-1] == "moved", what="the next lead")
        await eventually(lambda: reader.dropped == 1)  # sent again: nobody knew that it was there
    assert reader.seen == {(topics.build, "b1"): [1]}


async def test_who_is_told_to_stop_first_moves_the_cursors(
    database: Database, kafka: KafkaAddress, topics: Topics, settings: RelaySettings, group
):
    slow = _Slow(
        settings.postgres_dsn.get_secret_value(),
        KafkaConnector(settings, ack_timeout_s=settings.relay_ack_timeout_s),
    )
    async with log_on(database.dsn()) as log, group(sessions=slow, brokers=slow):
        await append_some(log, "b1", 1)
        await eventually(lambda: slow.told == ["read", "sent", "moves"])
        asyncio.get_running_loop().call_later(0.3, slow.gate.set)  # the loop has ended by then
    assert slow.told[-1] == "moved"


async def test_the_cursor_never_goes_back_and_needs_the_leading_session(database: Database):
    sessions = PostgresLeaderSessions(database.dsn("nightshift_relay"), name="test", leader_timeout_s=5)
    watch = await asyncpg.connect(database.dsn())
    async with sessions.open(range(SHARDS)) as session, sessions.open(range(SHARDS)) as other:
        assert await session.lead()
        assert not await other.lead()
        await session.move({3: 10, 4: 5}, [])
        await session.move({3: 9, 4: 6}, [])
        cursors = await session.cursors()
        assert (cursors.positions[3], cursors.positions[4]) == (10, 6)
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


async def test_a_paused_leader_loses_its_locks_by_the_servers_clock(database: Database):
    sessions = PostgresLeaderSessions(database.dsn("nightshift_relay"), name="test", leader_timeout_s=0.5)
    async with sessions.open(range(SHARDS)) as paused, sessions.open(range(SHARDS)) as other:
        assert await paused.lead()  # and then nothing, as a paused process does

        async def leads() -> bool:
            return await other.lead()

        await eventually(leads, 5, promised=True)
        with pytest.raises(LeadershipLost):
            await paused.move({3: 11}, [])


async def test_a_leader_that_falls_silent_after_any_message_loses_its_locks(database: Database):
    """Between two statements the server's clock takes the locks back; a leader must never stop within one."""
    server, asked = database.server, 0

    async def lead_until_silent(shard: int) -> None:
        nonlocal asked
        async with tcp_proxy(server.host, server.port) as proxy:
            near = PostgresAddress(proxy.host, proxy.own_port).dsn("nightshift_relay", database.name)
            sessions = PostgresLeaderSessions(near, name="silent", leader_timeout_s=0.5)
            async with sessions.open([shard]) as session, direct.open([shard]) as other:
                assert await session.lead()
                proxy.let_pass = shard
                with contextlib.suppress(LeadershipLost):
                    await session.alive()
                    await session.cursors()
                    await session.published()
                    await session.move({shard: 1}, [])
                    await session.note_loss("test", 0)
                    await session.republished([shard], 1)
                asked = max(asked, shard - (proxy.let_pass or 0))
                await eventually(other.lead, 10, what=f"the locks of who fell silent after {shard} messages")

    direct = PostgresLeaderSessions(database.dsn("nightshift_relay"), name="other", leader_timeout_s=30)
    await asyncio.gather(*map(lead_until_silent, range(9)))
    assert asked == 6  # one message a statement, and every place between them was tried


async def test_a_server_that_crashes_after_any_of_its_answers_is_waited_for(database: Database):
    """Whatever was under way, also while a session is opened, it is a lost session or a server that is away."""
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
                    await session.alive()
                    whole += 1

    for begin in range(0, 64, 16):
        await asyncio.gather(*map(lead_until_crash, range(begin, begin + 16)))
    assert whole, "every place was tried"


def _published(offset: int) -> LastPublished:
    return LastPublished(Lane("topic", offset), offset, uuid4(), "build/b1", 1)


class _Pooled:
    """A connection through a pooler by transaction: each transaction gets the server process that is free."""

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


async def test_a_transaction_pooler_is_refused_and_a_direct_connection_is_not(database: Database):
    first, second = [await asyncpg.connect(database.dsn("nightshift_relay")) for _ in range(2)]
    await refuse_pooler(first, second)
    servers = [first, second]
    with pytest.raises(ConfigurationError, match="pools by transaction"):
        await refuse_pooler(_Pooled(servers), _Pooled(servers))
    await first.close()
    await second.close()
