"""A reader by position misses no event, because positions are drawn under the shard's lock. Without it, one is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from tests.support import facts
from tests.support.stack import Database as Place

from nightshift.eventlog.port import shard_of
from nightshift.eventlog.postgres import (
    _APPEND,
    _APPEND_ONE,
    PostgresEventLog,
    _batch_arrays,
    _pending_arrays,
)
from nightshift.eventlog.prepare import pending_changes, prepare

STREAM = "build-same-shard"


def same_shard(count: int) -> list[str]:
    """Return streams of one shard."""
    names = (f"build-s{number}" for number in range(100_000))
    return [name for name in names if shard_of(name) == shard_of(STREAM)][:count]


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def append_in(
    connection: asyncpg.Connection, stream: str, function: str = "nightshift.append_events"
) -> int:
    """Append one event in the connection's transaction and return its position."""
    events = [facts.checkpoint()]
    query = _APPEND.replace("nightshift.append_events", function)
    arrays = (
        *_batch_arrays(prepare(stream, events, actor="t")),
        *_pending_arrays(pending_changes(stream, events)),
    )
    await connection.fetch(query, stream, None, *arrays)
    position: int = await connection.fetchval(
        "SELECT position FROM nightshift.events WHERE stream_id = $1 ORDER BY version DESC LIMIT 1", stream
    )
    return position


async def test_without_the_lock_a_position_reader_loses_an_event(database: Place, log: PostgresEventLog):
    """A copy of the function without its lock. The later position is committed first."""
    early, late = same_shard(2)
    async with connected(database.dsn()) as one, connected(database.dsn()) as two:
        source = await one.fetchval("SELECT pg_get_functiondef('nightshift.append_events'::regproc)")
        assert source.count("pg_advisory_xact_lock(20041, v_shard)") == 1
        await one.execute("CREATE SCHEMA scratch")
        await one.execute(
            source.replace("pg_advisory_xact_lock(20041, v_shard)", "''").replace(
                "FUNCTION nightshift.append_events", "FUNCTION scratch.append_events"
            )
        )
        held = one.transaction()
        await held.start()
        first = await append_in(one, early, "scratch.append_events")
        second = await append_in(two, late, "scratch.append_events")
        assert first < second
        (seen,) = await log.read_shards({shard_of(early): 0}, limit=10)
        await held.commit()
        assert seen.position == second
        assert await log.read_shards({shard_of(early): seen.position}, limit=10) == []


async def test_the_second_append_waits_for_the_first_commit(
    database: Place, log: PostgresEventLog, eventually
):
    early, late = same_shard(2)
    async with connected(database.dsn()) as one:
        held = one.transaction()
        await held.start()
        await append_in(one, early)
        waiting = asyncio.create_task(log.append(late, [facts.note()]))
        await eventually(lambda: _somebody_waits(one), what="the second append waits for the lock")
        assert await log.read_shards({shard_of(early): 0}, limit=10) == []
        await held.commit()
        await waiting
    rows = await log.read_shards({shard_of(early): 0}, limit=10)
    assert [row.stream_id for row in rows] == [early, late]


async def _somebody_waits(connection: asyncpg.Connection) -> bool:
    return bool(
        await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    )


@pytest.mark.timeout(120)
async def test_a_position_reader_misses_no_delayed_transaction(database: Place, log: PostgresEventLog):
    """Some writers get a transaction id long before they append, and some commit late."""
    writers, each, shards = 8, 60, range(64)
    async with connected(database.dsn()) as admin:
        await admin.execute("CREATE TABLE other (n integer)")
    done = asyncio.Event()

    async def write(number: int) -> None:
        async with connected(database.dsn()) as connection:
            for turn in range(each):
                stream = f"build-w{(number * 7 + turn) % 12}"
                async with connection.transaction():
                    if turn % 3 == 0:
                        await connection.execute("INSERT INTO other VALUES ($1)", turn)
                    await append_in(connection, stream)
                    if turn % 5 == 0:
                        await connection.execute("SELECT pg_sleep(0.01)")

    async def read() -> list[tuple[str, int]]:
        cursors, seen = dict.fromkeys(shards, 0), []
        last_round = False
        while True:
            last_round = done.is_set()
            rows = await log.read_shards(cursors, limit=7)
            for row in rows:
                assert row.position > cursors[row.shard]
                cursors[row.shard] = row.position
                seen.append((row.stream_id, row.version))
            if last_round and not rows:
                return seen

    reader = asyncio.create_task(read())
    await asyncio.gather(*(write(number) for number in range(writers)))
    done.set()
    seen = await reader
    assert len(seen) == len(set(seen)) == writers * each
    for stream in {name for name, _ in seen}:
        in_order = [version for name, version in seen if name == stream]
        assert in_order == list(range(1, len(in_order) + 1))


async def test_a_batch_has_its_positions_in_the_order_of_its_versions(log: PostgresEventLog):
    await log.append(STREAM, [facts.note() for _ in range(200)])
    rows = await log.read_shards({shard_of(STREAM): 0}, limit=200)
    assert [row.version for row in rows] == list(range(1, 201))


async def test_python_and_sql_agree_on_the_shard_of_a_stream(database: Place):
    names = [f"build-{number}" for number in range(500)] + ["account-a.b_c-d"]
    async with connected(database.dsn()) as connection:
        found = await connection.fetch("SELECT nightshift.shard_of(n) FROM unnest($1::text[]) AS n", names)
    assert [row[0] for row in found] == [shard_of(name) for name in names]
    assert shard_of("build-1") == 40  # never another: the rows of every log say so


async def test_appends_to_the_same_streams_do_not_deadlock(
    log: PostgresEventLog,
):
    from nightshift.eventlog.port import Append

    names = [f"build-x{number}" for number in range(6)]
    for _ in range(10):
        parts = [Append(name, [facts.note()]) for name in names]
        back = [Append(name, [facts.note()]) for name in reversed(names)]
        await asyncio.gather(log.append_all(parts), log.append_all(back))
    assert [event.version async for event in log.read_stream(names[0])] == list(range(1, 21))


async def test_a_wrong_shard_argument_is_corrected(database: Place, log: PostgresEventLog):
    """The caller passes a wrong shard to append_one. The stream's own rows decide."""
    await log.append(STREAM, [facts.note()])
    event = prepare(STREAM, [facts.note()], actor="t")[0]
    async with connected(database.dsn()) as connection:
        assert await connection.fetchval(_APPEND_ONE, STREAM, 0, 1, *event) == 2
    rows = await log.read_shards({shard_of(STREAM): 0}, limit=10)
    assert [row.version for row in rows] == [1, 2]
    assert shard_of(STREAM) != 0
    assert await log.read_shards({0: 0}, limit=10) == []
