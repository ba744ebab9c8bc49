"""The relay under faults of its database: long transactions, index builds, crashes, restores, lost commits."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from tests.integration.relay.reading import in_log, reading
from tests.integration.relay.relays import relays
from tests.integration.relay.writing import append_some, checkpoint, log_on
from tests.support.stack import Database, postgres_part, postgres_tool
from tests.support.waiting import eventually

from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import UNSAFE_FAST, KafkaAddress
from nightshift.eventlog.migrate import migrate
from nightshift.eventlog.port import build_stream

pytestmark = [pytest.mark.kafka, pytest.mark.fault]

_NAME = "nightshift"


class Server:
    """A PostgreSQL server for one test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.part = postgres_part(
            folder, settings={**UNSAFE_FAST, "max_prepared_transactions": "5", "synchronous_commit": "on"}
        )

    async def start(self) -> Database:
        """Start or restart it on the same port."""
        return Database(await self.part.start(), _NAME)

    async def crash(self) -> None:
        """Shut it down with `immediate`: like a crash, without a checkpoint."""
        self.part.child.signal(signal.SIGQUIT)
        await self.part.child.wait()

    async def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs against this server."""
        tool = await asyncio.to_thread(postgres_tool, self._folder, program)
        process = await asyncio.create_subprocess_exec(
            str(tool),
            "--host=127.0.0.1",
            f"--port={self.part.port}",
            "--username=postgres",
            *arguments,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert await process.wait() == 0


@contextlib.asynccontextmanager
async def server(folder: Path) -> AsyncIterator[tuple[Server, Database]]:
    one = Server(folder)
    database = await one.start()
    try:
        admin = await asyncpg.connect(database.server.admin_dsn)
        await admin.execute(f"CREATE DATABASE {_NAME}")
        await admin.close()
        yield one, database
    finally:
        await one.part.stop()


@pytest.fixture
def folder(stack_folder: Path, request: pytest.FixtureRequest) -> Path:
    """A data folder that the server's user can read."""
    return stack_folder / f"pg-{request.node.name[:40]}-{os.getpid()}"


async def published_in_time(log, reader, builds: range, *, bound: float) -> float:
    """Append to these builds one by one and wait for each at the reader. Returns the longest wait."""
    longest = 0.0
    for build in builds:
        before, began = reader.count, time.monotonic()
        await log.append(build_stream(f"b{build}"), [checkpoint()])
        await eventually(lambda before=before: reader.count > before, bound)
        longest = max(longest, time.monotonic() - began)
    return longest


@pytest.mark.timeout(180)
@pytest.mark.long
async def test_open_transactions_and_an_index_build_delay_nothing(
    folder: Path, kafka: KafkaAddress, topics: Topics, tmp_path: Path
):
    async with server(folder) as (_, database):
        await migrate(database.dsn())
        other = await asyncpg.connect(database.server.admin_dsn)
        orphan, builder = [await asyncpg.connect(database.dsn()) for _ in range(2)]
        async with (
            log_on(database.dsn()) as log,
            relays(tmp_path, database, kafka, topics) as relay,
            reading(kafka.bootstrap, topics) as reader,
        ):
            await relay.start()
            await published_in_time(log, reader, range(1), bound=20)
            transaction = other.transaction()
            await transaction.start()
            await other.execute("CREATE TABLE held (n int)")
            await published_in_time(log, reader, range(10), bound=5)

            await orphan.execute("CREATE TABLE orphaned (n int)")
            await orphan.execute("BEGIN; INSERT INTO orphaned VALUES (1); PREPARE TRANSACTION 'orphan'")
            await published_in_time(log, reader, range(10), bound=5)

            # It waits for the orphan, for as long as that is there.
            building = asyncio.create_task(
                builder.execute("CREATE INDEX CONCURRENTLY by_actor ON nightshift.events (actor)")
            )
            await published_in_time(log, reader, range(10), bound=5)
            await orphan.execute("ROLLBACK PREPARED 'orphan'")
            await asyncio.wait_for(building, 20)  # nor does the relay hold the index build up
            await published_in_time(log, reader, range(10), bound=5)
            await transaction.rollback()
            assert reader.seen == await in_log(builder, topics)
        for connection in (other, orphan, builder):
            await connection.close()


@pytest.mark.timeout(180)
@pytest.mark.long
async def test_the_relay_goes_on_after_a_dump_and_restore(
    folder: Path, kafka: KafkaAddress, topics: Topics, tmp_path: Path
):
    dump = folder.with_name(folder.name + ".sql")
    async with reading(kafka.bootstrap, topics) as reader:
        async with server(folder) as (old, database), log_on(database.dsn()) as log:
            await migrate(database.dsn())
            async with relays(tmp_path, database, kafka, topics) as relay:
                await relay.start()
                await asyncio.gather(*(append_some(log, f"b{build}", 10) for build in range(4)))
                await eventually(lambda: reader.count == 40, 20)
            await asyncio.gather(*(append_some(log, f"b{build}", 3) for build in range(4)))  # unpublished
            await old.run("pg_dump", f"--file={dump}", _NAME)
        async with server(folder.with_name(folder.name + "-new")) as (new, database):
            roles = await asyncpg.connect(database.server.admin_dsn)
            for role in (
                "owner",
                "orchestrator",
                "sandbox_gateway",
                "snapshotter",
                "budget",
                "relay",
                "reader",
            ):
                await roles.execute(f"CREATE ROLE nightshift_{role} LOGIN")
            await roles.close()
            await new.run(
                "psql", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1", f"--file={dump}", _NAME
            )
            await migrate(database.dsn())
            async with log_on(database.dsn()) as log, relays(tmp_path, database, kafka, topics) as relay:
                await relay.start()
                await eventually(lambda: reader.count == 52, 20)
                await asyncio.gather(*(append_some(log, f"b{build}", 3) for build in range(4)))
                await eventually(lambda: reader.count == 64, 20)
                watch = await asyncpg.connect(database.dsn())
                assert reader.seen == await in_log(watch, topics)
                await watch.close()
                assert "broker.data_lost" not in relay.logged()


@pytest.mark.timeout(180)
@pytest.mark.long
async def test_the_relay_waits_for_a_database_that_crashed(
    folder: Path, kafka: KafkaAddress, topics: Topics, tmp_path: Path
):
    async with server(folder) as (postgres, database), log_on(database.dsn()) as log:
        await migrate(database.dsn())
        async with (
            relays(tmp_path, database, kafka, topics) as relay,
            reading(kafka.bootstrap, topics) as reader,
        ):
            await relay.start(2)
            for turn in range(3):
                writing = asyncio.gather(*(append_some(log, f"b{build}-{turn}", 20) for build in range(4)))
                await eventually(lambda turn=turn: reader.count > 80 * turn, 20)
                await postgres.crash()
                await eventually(
                    lambda turn=turn: relay.logged().count("session.lost") > turn, 10, what="word of it"
                )
                # Whichever connection notices first, and also the one that only stands by.
                await eventually(lambda: _say_it_is_away(relay.logged()) == 2, 10, what="both say so")
                await postgres.start()
                await writing
                await eventually(lambda turn=turn: reader.count >= 80 * (turn + 1), 30)
            watch = await asyncpg.connect(database.dsn())
            assert reader.seen == await in_log(watch, topics)
            await watch.close()


def _say_it_is_away(log: str) -> int:
    """Return how many relays logged `postgres.unavailable` last."""
    said = [json.loads(line) for line in log.splitlines() if '"postgres.' in line]
    return list({line["replica"]: line["event"] for line in said}.values()).count("postgres.unavailable")


async def test_a_diverged_log_stops_the_relay_until_accepted(
    database: Database, kafka: KafkaAddress, topics: Topics, tmp_path: Path
):
    watch = await asyncpg.connect(database.dsn())
    async with (
        log_on(database.dsn()) as log,
        relays(tmp_path, database, kafka, topics) as relay,
        reading(kafka.bootstrap, topics) as reader,
    ):
        await relay.start()
        await append_some(log, "b1", 5)
        await eventually(lambda: reader.count == 5, 20)
        saved = await watch.fetch("SELECT * FROM nightshift.relay_published")
        await append_some(log, "b1", 2)
        await eventually(lambda: reader.count == 7, 20)
        await relay.kill_all()
        # What a replica promoted too early looks like: the last commits were never there.
        await watch.execute("SET session_replication_role = replica")
        await watch.execute("ALTER TABLE nightshift.events DISABLE TRIGGER USER")
        await watch.execute("DELETE FROM nightshift.events WHERE version > 5")
        await watch.execute("ALTER TABLE nightshift.events ENABLE ALWAYS TRIGGER events_append_only")
        await watch.execute("DELETE FROM nightshift.relay_published")
        await watch.executemany(
            "INSERT INTO nightshift.relay_published VALUES ($1, $2, $3, $4, $5, $6)",
            [tuple(row) for row in saved],
        )
        await watch.execute(
            "UPDATE nightshift.relay_cursors c SET position ="
            " coalesce((SELECT max(position) FROM nightshift.events e WHERE e.shard = c.shard), 0)"
        )
        await append_some(log, "b1", 1)  # another sixth event than Kafka's
        pid = await relay.start()
        await relay.ended(pid, 20)
        said = next(line for line in relay.logged().splitlines() if "log.diverged" in line)
        assert reader.count == 7
        assert "NIGHTSHIFT_RELAY_ACCEPT_DIVERGENCE=" in said
        token = said.partition("NIGHTSHIFT_RELAY_ACCEPT_DIVERGENCE=")[2][:16]
        pid = await relay.start(NIGHTSHIFT_RELAY_ACCEPT_DIVERGENCE="another")
        await relay.ended(pid, 20)
        await relay.start(NIGHTSHIFT_RELAY_ACCEPT_DIVERGENCE=token)
        await eventually(lambda: reader.raw[topics.build, "b1"][-6:] == [1, 2, 3, 4, 5, 6], 20)
        await relay.kill_all()
        await relay.start()  # decided once: not asked again
        await append_some(log, "b1", 2)
        await eventually(lambda: reader.raw[topics.build, "b1"][-2:] == [7, 8], 20)
    await watch.close()


async def test_divergence_exits_with_code_1(
    database: Database, kafka: KafkaAddress, topics: Topics, tmp_path: Path
):
    """The exit code, as a supervisor sees it."""
    import sys

    from aiokafka import AIOKafkaProducer
    from tests.integration.relay.relays import environment

    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    headers = {
        "ce_id": b"7f1d1c3e-0000-4000-8000-000000000001",
        "ce_subject": b"b1",
        "ce_sequence": b"0000000000000000001",
    }
    await producer.send_and_wait(topics.build, b"{}", key=b"b1", headers=list(headers.items()))
    await producer.stop()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "nightshift.relay",
        env={**os.environ, **environment(database.dsn("nightshift_relay"), kafka, topics)},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(), 40)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 1
    assert b"log.diverged" in said
    assert headers["ce_id"] in said
