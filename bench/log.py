"""The event log beside the bare limit of the same server, in the same run: append, batches, many writers, reading."""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import asyncpg

from nightshift.contracts.events.build import AgentSteered
from nightshift.contracts.registry import encode
from nightshift.devstack.parts import EmbeddedPostgres, PostgresAddress
from nightshift.runtime.log.migrate import migrate
from nightshift.runtime.log.port import NewEvent
from nightshift.runtime.log.postgres import PostgresEventLog, log_database
from nightshift.runtime.pg import PgConfig

ROLE = "nightshift_orchestrator"
STEERED = AgentSteered(reason="person", message="x" * 960)
TEXT = encode(STEERED)  # 1 KB
INSERT = """INSERT INTO bare (shard, position, stream_id, version, event_id, type, schema_version, data,
    correlation_id, causation_id, actor, closed, recorded_at)
    VALUES ($1, DEFAULT, $2, $3, $4, 'agent.steered', 1, $5, $6, $7, $8, false, $9)"""
INSERT_MANY = """INSERT INTO bare (shard, stream_id, version, event_id, type, schema_version, data,
    correlation_id, causation_id, actor, closed, recorded_at)
    SELECT $1, $2, v, e, 'agent.steered', 1, d, $6, c, $8, false, $9
    FROM unnest($3::bigint[], $4::uuid[], $5::text[], $7::uuid[]) AS n (v, e, d, c)"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `bound` is a ratio of ours to the limit: at most for times, at least for rates."""

    name: str
    unit: str
    limit: float
    ours: float
    target: str
    met: Callable[[float], bool]

    def line(self) -> str:
        ratio = self.ours / self.limit
        cells = (
            self.name,
            f"{self.limit:,.3f} {self.unit}",
            f"{self.ours:,.3f} {self.unit}",
            f"{ratio:.2f}",
            self.target,
            "yes" if self.met(ratio) else "**no**",
        )
        return f"| {' | '.join(cells)} |"


def event() -> NewEvent:
    return NewEvent(STEERED, causation_id=uuid4())


async def timed(work: Callable[[], Awaitable[None]]) -> float:
    """Seconds."""
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


async def interleaved(
    rounds: int, bare: Callable[[], Awaitable[None]], ours: Callable[[], Awaitable[None]]
) -> tuple[float, float]:
    """Medians of both, in turns, the order changing each round; one round before them does not count."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        pair = [(0, bare), (1, ours)]
        for which, work in pair if number % 2 else reversed(pair):
            seconds = await timed(work)
            if number:
                times[which].append(seconds)
    return statistics.median(times[0]), statistics.median(times[1])


async def append_one(address: PostgresAddress, rounds: int, count: int) -> Figure:
    """One writer, one event an append; both sides have one connection that does nothing else."""
    connection = await asyncpg.connect(address.dsn())
    database, log = make_log(address, 1)

    async def bare() -> None:
        stream, now = f"build-{uuid4().hex}", datetime.now(UTC)
        for version in range(1, count + 1):
            await connection.execute(INSERT, 1, stream, version, uuid4(), TEXT, "c", uuid4(), "bench", now)

    async def ours() -> None:
        stream = f"build-{uuid4().hex}"
        for version in range(count):
            await log.append(stream, [event()], expected_version=version)

    limit, own = await interleaved(rounds, bare, ours)
    await close(connection, database, log)
    return Figure(
        "append of one 1 KB event",
        "ms",
        limit / count * 1e3,
        own / count * 1e3,
        "≤ 1.3 ×",
        lambda r: r <= 1.3,
    )


async def append_batches(address: PostgresAddress, rounds: int, count: int) -> Figure:
    """Batches of 100, against one INSERT of 100 rows."""
    connection = await asyncpg.connect(address.dsn())
    database, log = make_log(address, 1)

    async def bare() -> None:
        stream = f"build-{uuid4().hex}"
        for batch in range(count):
            versions = list(range(batch * 100 + 1, batch * 100 + 101))
            ids, causes = [uuid4() for _ in versions], [uuid4() for _ in versions]
            texts = [TEXT] * 100
            await connection.execute(
                INSERT_MANY, 1, stream, versions, ids, texts, "c", causes, "bench", datetime.now(UTC)
            )

    async def ours() -> None:
        stream = f"build-{uuid4().hex}"
        for batch in range(count):
            await log.append(stream, [event() for _ in range(100)], expected_version=batch * 100)

    limit, own = await interleaved(rounds, bare, ours)
    await close(connection, database, log)
    rate = count * 100
    return Figure(
        "append in batches of 100", "events/s", rate / limit, rate / own, "≥ 0.60", lambda r: r >= 0.6
    )


async def many_writers(address: PostgresAddress, rounds: int, count: int) -> Figure:
    """16 writers over 100 streams, a commit takes 10 ms; each append goes to a stream drawn in turn."""
    admin = await asyncpg.connect(address.admin_dsn)
    for setting in ("commit_delay = 10000", "commit_siblings = 0"):
        await admin.execute(f"ALTER SYSTEM SET {setting}")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
    writers = [await asyncpg.connect(address.dsn()) for _ in range(16)]
    database, log = make_log(address, 16)

    async def bare() -> None:
        run = uuid4().hex

        async def write(number: int) -> None:
            for turn in range(count):
                stream = f"build-{run}-{(number * 37 + turn * 7) % 100}"
                await writers[number].execute(
                    INSERT,
                    1,
                    stream,
                    number * count + turn + 1,
                    uuid4(),
                    TEXT,
                    "c",
                    uuid4(),
                    "b",
                    datetime.now(UTC),
                )

        await asyncio.gather(*map(write, range(16)))

    async def ours() -> None:
        run = uuid4().hex

        async def write(number: int) -> None:
            for turn in range(count):
                await log.append(f"build-{run}-{(number * 37 + turn * 7) % 100}", [event()])

        await asyncio.gather(*map(write, range(16)))

    limit, own = await interleaved(rounds, bare, ours)
    for connection in writers:
        await connection.close()
    await log.close()
    await database.close()
    rate = 16 * count
    return Figure(
        "16 writers, 100 streams, 10 ms commit",
        "events/s",
        rate / limit,
        rate / own,
        "≥ 0.70",
        lambda r: r >= 0.7,
    )


async def reading(address: PostgresAddress, rounds: int, count: int) -> Figure:
    """`count` events of 1 KB, from the database to validated models."""
    connection = await asyncpg.connect(address.dsn())
    database, log = make_log(address, 1)
    stream = f"build-{uuid4().hex}"
    for start in range(0, count, 1000):
        await log.append(stream, [event() for _ in range(1000)], expected_version=start)

    async def bare() -> None:
        rows = await connection.fetch(
            """SELECT event_id, stream_id, version, type, schema_version, data, correlation_id, causation_id, actor,
               traceparent, recorded_at FROM nightshift.events WHERE stream_id = $1 ORDER BY version""",
            stream,
        )
        models = [AgentSteered.model_validate_json(row["data"]) for row in rows]
        assert len(models) == count

    async def ours() -> None:
        events = [one async for one in log.read_stream(stream)]
        assert len(events) == count

    limit, own = await interleaved(rounds, bare, ours)
    await close(connection, database, log)
    return Figure(
        f"reading {count:,} events", "events/s", count / limit, count / own, "≥ 0.90", lambda r: r >= 0.9
    )


def make_log(address: PostgresAddress, connections: int):
    database = log_database(PgConfig(dsn=address.dsn(ROLE), max_connections=connections))
    return database, PostgresEventLog(database, actor="bench", hint=False)


async def close(connection, database, log) -> None:
    await connection.close()
    await log.close()
    await database.close()


@contextmanager
def data_folder() -> Iterator[Path]:
    """A folder that the server's own user can reach."""
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def prepare(address: PostgresAddress) -> None:
    admin = await asyncpg.connect(address.admin_dsn)
    await admin.execute("CREATE DATABASE nightshift")
    await admin.close()
    await migrate(address.dsn())
    admin = await asyncpg.connect(address.dsn())
    # The bare limit writes the same row into the same indexes.
    await admin.execute(
        "CREATE TABLE bare (LIKE nightshift.events INCLUDING DEFAULTS INCLUDING IDENTITY INCLUDING INDEXES)"
    )
    await admin.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--events", type=int, default=100_000, help="how many to read")
    options = parser.parse_args()
    with data_folder() as folder:
        server = EmbeddedPostgres(folder / "postgres")
        address = await server.start()
        try:
            await prepare(address)
            print("| what | bare limit | ours | ratio | target | met |\n|---|---|---|---|---|---|")
            print((await append_one(address, options.rounds, 1000)).line(), flush=True)
            print((await append_batches(address, options.rounds, 30)).line(), flush=True)
            print((await reading(address, options.rounds, options.events)).line(), flush=True)
            print((await many_writers(address, options.rounds, 40)).line(), flush=True)
        finally:
            await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
