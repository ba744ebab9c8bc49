"""PostgreSQL crashes and restarts: the log retries, logs the outage, and loses or doubles nothing."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import structlog
from tests.support import facts
from tests.support.stack import Database as Place
from tests.support.stack import postgres_part, session_folder

from nightshift.devstack.parts import EmbeddedPostgres
from nightshift.eventlog.database import Database, PgConfig
from nightshift.eventlog.errors import ConfigurationError, Fault, Unavailable
from nightshift.eventlog.migrate import migrate

pytestmark = pytest.mark.fault


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedPostgres]:
    """A durable server for this module, which tests may kill."""
    with session_folder() as folder:
        part = postgres_part(Path(folder) / "postgres", settings={"wal_level": "replica"})
        address = await part.start()
        connection = await asyncpg.connect(address.admin_dsn)
        await connection.execute("CREATE DATABASE nightshift")
        await connection.close()
        await migrate(address.dsn())
        try:
            yield part
        finally:
            await part.stop()


def dsn(server: EmbeddedPostgres) -> str:
    return f"postgresql://nightshift_orchestrator@127.0.0.1:{server.port}/nightshift"


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def kill(server: EmbeddedPostgres) -> None:
    """Kill the server and its sessions together. A session that survives for a moment would look like a recovery."""
    for pid in (server.pid, *children_of(server.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await server.stop()


async def run_through_an_outage(server: EmbeddedPostgres, make_log, eventually, *, away: float) -> None:
    log = make_log(dsn(server), patience=away + 50)
    written: dict[str, int] = {}
    stop = asyncio.Event()

    async def write(stream: str) -> None:
        while not stop.is_set():
            head = written.get(stream, 0)
            await log.append(stream, [facts.note(str(head))], expected_version=head)
            written[stream] = head + 1

    with structlog.testing.capture_logs() as lines:
        writers = [asyncio.create_task(write(f"build-w{number}")) for number in range(6)]
        await eventually(lambda: sum(written.values()) > 60)
        await kill(server)
        await eventually(lambda: "postgres.unavailable" in [line["event"] for line in lines])
        await asyncio.sleep(away)  # the outage itself
        before = dict(written)
        await server.start()
        await eventually(
            lambda: all(count > before[stream] + 5 for stream, count in written.items()), timeout=30
        )
        stop.set()
        await asyncio.gather(*writers)
    said = [line["event"] for line in lines if line["event"].startswith("postgres.")]
    assert said == ["postgres.unavailable", "postgres.recovered"]
    for stream, count in written.items():
        events = [event async for event in log.read_stream(stream)]
        assert [event.version for event in events] == list(range(1, count + 1))
        assert [event.data.message for event in events] == [str(number) for number in range(count)]


async def test_appends_survive_a_killed_server(server, make_log, eventually):
    await run_through_an_outage(server, make_log, eventually, away=1)


async def test_recovery_is_logged_without_a_waiting_caller(server, eventually):
    pool = Database(PgConfig(dsn=dsn(server), patience=50))
    with structlog.testing.capture_logs() as lines:
        for outage in (1, 2):
            await kill(server)
            waiting = asyncio.create_task(pool.fetch("SELECT 1"))
            await eventually(
                lambda n=outage: [line["event"] for line in lines].count("postgres.unavailable") == n
            )
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await server.start()
            await pool.fetch("SELECT 1")
    await pool.close()
    assert [line["event"] for line in lines] == ["postgres.unavailable", "postgres.recovered"] * 2


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_appends_survive_an_outage_of_thirty_seconds(server, make_log, eventually):
    await run_through_an_outage(server, make_log, eventually, away=30)


async def test_a_call_is_unavailable_after_its_patience(unused_tcp_port: int):
    nobody = Database(PgConfig(dsn=f"postgresql://postgres@127.0.0.1:{unused_tcp_port}/x", patience=0.2))
    with pytest.raises(Unavailable):
        await nobody.fetch("SELECT 1")
    assert not await nobody.answers()


async def test_answers_logs_that_the_server_is_unavailable(unused_tcp_port: int):
    nobody = Database(PgConfig(dsn=f"postgresql://postgres@127.0.0.1:{unused_tcp_port}/x"))
    with structlog.testing.capture_logs() as lines:
        assert not await nobody.answers()
        assert not await nobody.answers()
    assert [line["event"] for line in lines] == ["postgres.unavailable"]


async def test_a_slow_statement_times_out_with_its_connection(database: Place):
    pool = Database(PgConfig(dsn=database.dsn(), statement_timeout=0.2, patience=0, max_connections=1))
    with pytest.raises(Unavailable):
        await pool.fetch("SELECT pg_sleep(30)")
    assert (await pool.fetch("SELECT 7"))[0][0] == 7
    await pool.close()


async def test_a_cancelled_call_leaves_a_pool_that_works(database: Place):
    pool = Database(PgConfig(dsn=database.dsn(), patience=0, max_connections=1))
    await pool.fetch("SELECT 1")
    slow = asyncio.create_task(pool.fetch("SELECT pg_sleep(30)"))
    await asyncio.sleep(0)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert (await pool.fetch("SELECT 7"))[0][0] == 7
    await pool.close()


@pytest.mark.parametrize("when", ["while it waits", "when its turn has come"])
async def test_a_cancelled_waiter_frees_its_place_in_the_pool(database: Place, when: str):
    pool = Database(PgConfig(dsn=database.dsn(), patience=0, max_connections=1))
    async with pool.connection():
        first = asyncio.create_task(pool.fetch("SELECT 1"))
        second = asyncio.create_task(pool.fetch("SELECT 2"))
        await asyncio.sleep(0)
        if when == "while it waits":
            first.cancel()
    first.cancel()
    assert (await asyncio.wait_for(second, 10))[0][0] == 2
    assert first.cancelled()
    assert (await pool.fetch("SELECT 7"))[0][0] == 7
    await pool.close()


async def test_waiting_callers_are_served_in_order(database: Place):
    pool = Database(PgConfig(dsn=database.dsn(), patience=0, max_connections=2))
    done: list[int] = []

    async def call(number: int) -> None:
        await pool.fetch("SELECT 1")
        done.append(number)

    async with pool.connection():
        await asyncio.gather(*(call(number) for number in range(20)))
    assert done == list(range(20))
    await pool.close()


async def test_a_call_without_a_free_connection_is_unavailable(database: Place):
    pool = Database(PgConfig(dsn=database.dsn(), patience=0, max_connections=1, statement_timeout=0.2))
    async with pool.connection():
        with pytest.raises(Unavailable):
            await pool.fetch("SELECT 1")
    assert (await pool.fetch("SELECT 7"))[0][0] == 7
    await pool.close()


async def test_each_error_has_its_branch(database: Place):
    pool = Database(PgConfig(dsn=database.dsn(), patience=0))
    for statement, kind in (
        ("SELECT nightshift.no_such_function()", ConfigurationError),
        ("SELECT * FROM no_schema.no_table", ConfigurationError),
        ("SELECT 1/0", Fault),
        ("SELECT pg_terminate_backend(pg_backend_pid())", Unavailable),
    ):
        with pytest.raises(kind):
            await pool.fetch(statement)
    assert (await pool.fetch("SELECT 7"))[0][0] == 7
    await pool.close()


async def test_a_prepared_statement_survives_a_migration(database: Place):
    pool = Database(PgConfig(dsn=database.dsn(), max_connections=1))
    await pool.fetch("CREATE TABLE t AS SELECT 1 AS a")
    assert tuple((await pool.fetch("SELECT * FROM t"))[0]) == (1,)
    other = await asyncpg.connect(database.dsn())
    await other.execute("ALTER TABLE t ADD b text DEFAULT 'x'")
    await other.close()
    assert tuple((await pool.fetch("SELECT * FROM t"))[0]) == (1, "x")
    await pool.close()


async def test_a_standby_is_never_used(postgres_standby):
    pool = Database(PgConfig(dsn=postgres_standby, patience=0))
    with pytest.raises(Unavailable):
        await pool.fetch("SELECT 1")


@pytest.fixture
async def postgres_standby(server: EmbeddedPostgres, eventually) -> AsyncIterator[str]:
    """The server, restarted as a standby that recovers without end."""
    await server.stop()
    data = next(Path(server._data).parent.glob("**/PG_VERSION")).parent
    (data / "standby.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as settings:
        settings.write("hot_standby = on\n")
    # It never says "ready", which is what a start waits for, and takes connections all the same.
    starting = asyncio.create_task(server.start())
    address = f"postgresql://postgres@127.0.0.1:{server.port}/nightshift"
    try:
        await eventually(lambda: _recovers(address), timeout=20)
        yield address
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)


async def _recovers(address: str) -> bool:
    try:
        connection = await asyncpg.connect(address)
    except (OSError, asyncpg.PostgresError):
        return False
    recovers: bool = await connection.fetchval("SELECT pg_is_in_recovery()")
    await connection.close()
    return recovers
