"""An append is stored once when its answer is lost after the commit, and when two writers send it."""

import asyncio
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from tests.support import facts
from tests.support.stack import Database as Place
from tests.support.tcp_proxy import tcp_proxy

from nightshift.contracts.model import Owner
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.migrate import role_of
from nightshift.eventlog.postgres import PostgresEventLog

STREAM = "build-b1"


def through(dsn: str, port: int) -> str:
    """Return the same address through a proxy."""
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}"))


@pytest.mark.fault
@pytest.mark.parametrize("count", [1, 3])
async def test_an_answer_lost_after_the_commit_appends_once(
    database: Place, make_log, log: PostgresEventLog, count: int
):
    place = database.server
    async with tcp_proxy(place.host, place.port) as proxy:
        far = make_log(through(database.dsn(role_of(Owner.ORCHESTRATOR)), proxy.own_port), patience=20)
        await far.append(STREAM, [facts.phase()] * 1)
        for turn in range(10):
            # The statement is prepared by now, so the next answer is the append's.
            await far.append(STREAM, [facts.note() for _ in range(count)])
            proxy.cut_answers = 1
            head = 1 + (2 * turn + 1) * count
            done = await far.append(STREAM, [facts.note() for _ in range(count)], expected_version=head)
            assert not done.fresh
            assert done.version == head + count
        assert proxy.lost == 10
    assert len([event async for event in log.read_stream(STREAM)]) == 1 + 20 * count


@pytest.mark.fault
async def test_without_patience_an_append_can_be_repeated(database: Place, make_log, log: PostgresEventLog):
    async with tcp_proxy(database.server.host, database.server.port) as proxy:
        far = make_log(through(database.dsn(), proxy.own_port), patience=0)
        await far.append(STREAM, [facts.phase()])
        event = facts.note()
        await far.append(STREAM, [facts.phase()])
        proxy.cut_answers = 1
        with pytest.raises(Unavailable):
            await far.append(STREAM, [event], expected_version=2)
        assert not (await far.append(STREAM, [event], expected_version=2)).fresh
    assert len([event async for event in log.read_stream(STREAM)]) == 3


@pytest.mark.parametrize("expected", [None, 1])
async def test_ten_concurrent_repeats_append_once(
    database: Place, make_log, log: PostgresEventLog, expected: int | None
):
    sides = [make_log(database.dsn(role_of(Owner.ORCHESTRATOR))) for _ in range(2)]
    await log.append(STREAM, [facts.phase()])
    for count in (1, 3):
        batch = [facts.note(cause=uuid4()) for _ in range(count)]
        head = len([event async for event in log.read_stream(STREAM)])
        answers = await asyncio.gather(
            *(
                side.append(STREAM, batch, expected_version=expected and head)
                for _ in range(5)
                for side in sides
            )
        )
        assert sum(answer.fresh for answer in answers) == 1
        assert len({answer.versions for answer in answers}) == 1
        assert len([event async for event in log.read_stream(STREAM)]) == head + count


async def test_the_same_call_answered_twice_at_once_has_one_result(database: Place, make_log, eventually):
    """Two gateways append two results for one call. One is stored, the other raises EventIdReused."""
    cause = uuid4()
    sides = [make_log(database.dsn(role_of(Owner.SANDBOX_GATEWAY))) for _ in range(2)]
    answers = await asyncio.gather(
        *(
            side.append(STREAM, [facts.result("b1/1/0", f"by {number}", cause=cause)])
            for number, side in enumerate(sides)
        ),
        return_exceptions=True,
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["Appended", "EventIdReused"]


async def test_the_relay_is_notified_outside_the_append(database: Place, make_log):
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(database.dsn("nightshift_relay"))
    try:
        await listener.add_listener("nightshift_log", lambda *args: heard.put_nowait(args[-1]))
        log = make_log(database.dsn(role_of(Owner.ORCHESTRATOR)), notify=True)
        done = await log.append(STREAM, [facts.note()])
        async with asyncio.timeout(10):
            shard = int(await heard.get())
        assert (await log.read_shards({shard: 0}, limit=1))[0].event_id == done.event_ids[0]
        await asyncio.gather(*(log.append(f"build-n{n}", [facts.note()]) for n in range(30)))
        await log.close()
        assert heard.qsize() <= 30
    finally:
        await listener.close()


@pytest.mark.fault
async def test_a_writer_paused_in_a_transaction_loses_its_lock(
    database: Place, make_log, log: PostgresEventLog
):
    async with tcp_proxy(database.server.host, database.server.port) as proxy:
        dsn = through(database.dsn(role_of(Owner.ORCHESTRATOR)), proxy.own_port)
        far = make_log(dsn, patience=0, transaction_timeout=0.5)
        await far.append(STREAM, [facts.phase()])

        async def paused_within() -> None:
            async with far.transaction() as (_, within):
                await within.append(STREAM, [facts.note()])
                proxy.let_pass = 0
                # Its shard is locked and it says nothing more: the server's limit ends it, or this waits in vain.
                await log.append(STREAM, [facts.note()])

        with pytest.raises(Unavailable):
            await paused_within()
    assert len([event async for event in log.read_stream(STREAM)]) == 2
