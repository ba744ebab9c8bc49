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
from functools import partial
from pathlib import Path
from uuid import uuid4

import asyncpg

from nightshift.contracts.events.build import AgentSteered
from nightshift.contracts.registry import encode
from nightshift.devstack.parts import EmbeddedPostgres, PostgresAddress
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.migrate import migrate
from nightshift.eventlog.port import NewEvent
from nightshift.eventlog.postgres import PostgresEventLog, log_database

ROLE = "nightshift_orchestrator"
STEERED = AgentSteered(reason="person", message="x" * 960)
TEXT = encode(STEERED)  # 1 KB
ROW = (
    "shard, stream_id, version, event_id, type, schema_version, data, correlation_id, causation_id, actor,"
    " traceparent, closed, recorded_at"
)
#: The limit: a table with the columns, constraints and indexes of the log's own, rows that are encoded already, no
#: function, no lock. For honesty also the same columns with nothing but a primary key.
BARE, KEYED = "bare", "keyed"
Rounds = Callable[[], Awaitable[None]]


def insert_one(table: str) -> str:
    return f"INSERT INTO {table} ({ROW}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, false, $12)"


def insert_many(table: str) -> str:
    return f"""INSERT INTO {table} ({ROW})
        SELECT $1, $2, n.version, n.event_id, n.type, n.schema_version, n.data, n.correlation_id, n.causation_id,
            n.actor, n.traceparent, false, $11
        FROM unnest($3::bigint[], $4::uuid[], $5::text[], $6::integer[], $7::text[], $8::text[], $9::uuid[],
            $10::text[], $12::text[])
        AS n (version, event_id, type, schema_version, data, correlation_id, causation_id, actor, traceparent)"""


@dataclass(frozen=True, slots=True)
class Figure:
    """Lines of the table: the target's own, and one against the keyed table where it was measured."""

    name: str
    unit: str
    limit: float
    ours: float
    target: str
    met: Callable[[float], bool]
    keyed: float | None = None

    def lines(self) -> str:
        ratio = self.ours / self.limit
        lines = [self._line(self.name, self.limit, self.target, "yes" if self.met(ratio) else "**no**")]
        if self.keyed is not None:
            lines.append(self._line("… the limit with a primary key only", self.keyed, "", ""))
        return "\n".join(lines)

    def _line(self, name: str, limit: float, target: str, met: str) -> str:
        cells = (
            name,
            f"{limit:,.3f} {self.unit}",
            f"{self.ours:,.3f} {self.unit}",
            f"{self.ours / limit:.2f}",
        )
        return f"| {' | '.join((*cells, target, met))} |"


def event() -> NewEvent:
    return NewEvent(STEERED, causation_id=uuid4())


async def interleaved(rounds: int, *sides: Callable[[], Rounds]) -> list[float]:
    """Median seconds of each side, in turns, the order changing each round; one round before them does not count.

    A side makes its rows or events first, and only what it answers is timed.
    """
    times: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        turns = list(enumerate(sides))
        for which, side in turns if number % 2 else reversed(turns):
            work = side()
            started = time.perf_counter()
            await work()
            if number:
                times[which].append(time.perf_counter() - started)
    return [statistics.median(each) for each in times]


async def append_one(address: PostgresAddress, rounds: int, count: int) -> Figure:
    """One writer, one event an append; each side has one connection that does nothing else."""
    connection = await asyncpg.connect(address.dsn())
    database, log = make_log(address, 1)

    def bare(table: str) -> Rounds:
        query, stream, now = insert_one(table), f"build-{uuid4().hex}", datetime.now(UTC)
        rows = [
            (1, stream, version, uuid4(), "agent.steered", 1, TEXT, stream, uuid4(), "bench", None, now)
            for version in range(1, count + 1)
        ]

        async def work() -> None:
            for row in rows:
                await connection.execute(query, *row)

        return work

    def ours() -> Rounds:
        stream, events = f"build-{uuid4().hex}", [event() for _ in range(count)]

        async def work() -> None:
            for version, one in enumerate(events):
                await log.append(stream, [one], expected_version=version)

        return work

    times = await interleaved(rounds, partial(bare, BARE), partial(bare, KEYED), ours)
    await close(connection, database, log)
    limit, keyed, own = (seconds / count * 1e3 for seconds in times)
    return Figure("append of one 1 KB event", "ms", limit, own, "≤ 1.3 ×", lambda r: r <= 1.3, keyed)


async def append_batches(address: PostgresAddress, rounds: int, count: int) -> Figure:
    """Batches of 100, against one INSERT of 100 rows."""
    connection = await asyncpg.connect(address.dsn())
    database, log = make_log(address, 1)

    def bare(table: str) -> Rounds:
        query, stream = insert_many(table), f"build-{uuid4().hex}"
        batches = [
            (
                *(1, stream, list(range(batch * 100 + 1, batch * 100 + 101)), [uuid4() for _ in range(100)]),
                *(["agent.steered"] * 100, [1] * 100, [TEXT] * 100, [stream] * 100),
                *([uuid4() for _ in range(100)], ["bench"] * 100, datetime.now(UTC), [None] * 100),
            )
            for batch in range(count)
        ]

        async def work() -> None:
            for rows in batches:
                await connection.execute(query, *rows)

        return work

    def ours() -> Rounds:
        stream = f"build-{uuid4().hex}"
        batches = [[event() for _ in range(100)] for _ in range(count)]

        async def work() -> None:
            for batch, events in enumerate(batches):
                await log.append(stream, events, expected_version=batch * 100)

        return work

    times = await interleaved(rounds, partial(bare, BARE), partial(bare, KEYED), ours)
    await close(connection, database, log)
    limit, keyed, own = (count * 100 / seconds for seconds in times)
    return Figure("append in batches of 100", "events/s", limit, own, "≥ 0.60", lambda r: r >= 0.6, keyed)


async def many_writers(address: PostgresAddress, rounds: int, count: int) -> Figure:
    """16 writers over 100 streams, a commit takes 10 ms; each append goes to a stream drawn in turn."""
    admin = await asyncpg.connect(address.admin_dsn)
    for setting in ("commit_delay = 10000", "commit_siblings = 0"):
        await admin.execute(f"ALTER SYSTEM SET {setting}")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
    writers = [await asyncpg.connect(address.dsn()) for _ in range(16)]
    database, log = make_log(address, 16)

    def streams() -> list[list[str]]:
        run = uuid4().hex
        return [
            [f"build-{run}-{(number * 37 + turn * 7) % 100}" for turn in range(count)] for number in range(16)
        ]

    def bare() -> Rounds:
        query, names = insert_one(BARE), streams()

        async def write(number: int) -> None:
            for turn, stream in enumerate(names[number]):
                row = (
                    1,
                    stream,
                    number * count + turn + 1,
                    uuid4(),
                    "agent.steered",
                    1,
                    TEXT,
                    stream,
                    uuid4(),
                    "b",
                )
                await writers[number].execute(query, *row, None, datetime.now(UTC))

        async def work() -> None:
            await asyncio.gather(*map(write, range(16)))

        return work

    def ours() -> Rounds:
        names = streams()

        async def write(number: int) -> None:
            for stream in names[number]:
                await log.append(stream, [event()])

        async def work() -> None:
            await asyncio.gather(*map(write, range(16)))

        return work

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

    limit, own = await interleaved(rounds, lambda: bare, lambda: ours)
    await close(connection, database, log)
    return Figure(
        f"reading {count:,} events", "events/s", count / limit, count / own, "≥ 0.90", lambda r: r >= 0.9
    )


def make_log(address: PostgresAddress, connections: int):
    database = log_database(PgConfig(dsn=address.dsn(ROLE), max_connections=connections))
    return database, PostgresEventLog(database, actor="bench", notify=False)


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
    await admin.execute(f"CREATE TABLE {BARE} (LIKE nightshift.events INCLUDING ALL)")
    await admin.execute(f"CREATE TABLE {KEYED} (LIKE nightshift.events INCLUDING IDENTITY)")
    await admin.execute(f"ALTER TABLE {KEYED} ADD PRIMARY KEY (stream_id, version)")
    await admin.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--events", type=int, default=100_000, help="how many to read")
    options = parser.parse_args()
    with data_folder() as folder:
        server = EmbeddedPostgres(folder / "postgres")
        address = await server.start()
        try:
            await prepare(address)
            print("| what | bare limit | ours | ratio | target | met |\n|---|---|---|---|---|---|")
            print((await append_one(address, options.rounds, 300)).lines(), flush=True)
            print((await append_batches(address, options.rounds, 15)).lines(), flush=True)
            print((await reading(address, options.rounds, options.events)).lines(), flush=True)
            print((await many_writers(address, options.rounds, 40)).lines(), flush=True)
        finally:
            await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
