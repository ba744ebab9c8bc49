"""What a build takes in PostgreSQL: rows, bytes and write-ahead log of recorded builds, appended step by step.

python bench/storage.py --builds 100
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from itertools import groupby
from pathlib import Path
from uuid import uuid5

from nightshift.cli.event_lines import read_lines
from nightshift.devstack.parts import EmbeddedPostgres
from nightshift.devstack.stack.steps import create_database
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.migrate import migrate
from nightshift.eventlog.port import NewEvent, RecordedEvent
from nightshift.eventlog.postgres import PostgresEventLog, log_database

_DEMO = sorted((Path(__file__).parents[1] / "tests/unit/orchestrator/recorded").glob("*/*-demo.jsonl"))[-1]


async def _append(log: PostgresEventLog, stream: str, events: list[RecordedEvent]) -> None:
    """Append one build as it was: the events of one cause and writer in one transaction."""
    for (cause, _), group in groupby(events, key=lambda one: (one.causation_id, one.actor)):
        seen: dict[str, int] = {}
        new = []
        for one in group:
            index = seen.get(one.data.type, 0)
            seen[one.data.type] = index + 1
            new.append(NewEvent(one.data, cause, index))
        await log.append(stream, new)


async def measure(builds: int, writers: int) -> None:
    lines = _DEMO.read_text().splitlines()
    events = list(read_lines(lines, "demo"))
    folder = Path(tempfile.mkdtemp(prefix="nightshift-storage-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "data")
    address = await server.start()
    try:
        await create_database(address)
        await migrate(address.dsn())
        database = log_database(PgConfig(dsn=address.dsn(), max_connections=writers))
        log = PostgresEventLog(database, actor="bench", notify=False)
        [(start,)] = await database.fetch("SELECT pg_current_wal_insert_lsn()::text")
        began = time.perf_counter()

        async def writer(number: int) -> None:
            for build in range(number, builds, writers):
                await _append(log, f"build-b{build}", _renamed(events, build))

        await asyncio.gather(*(writer(number) for number in range(writers)))
        seconds = time.perf_counter() - began
        [(rows, table, wal)] = await database.fetch(
            "SELECT count(*), pg_total_relation_size('nightshift.events'),"
            " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)::bigint FROM nightshift.events",
            start,
        )
        print(f"{builds} builds of {len(events)} events, {writers} writers, synchronous commits on this disk")
        print("| events/s | bytes an event, with indexes | of it the event's JSON | WAL an event |")
        print("|---|---|---|---|")
        [(text,)] = await database.fetch("SELECT avg(octet_length(data))::int FROM nightshift.events")
        print(f"| {rows / seconds:.0f} | {table / rows:.0f} | {text} | {wal / rows:.0f} |")
        await database.close()
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _renamed(events: list[RecordedEvent], build: int) -> list[RecordedEvent]:
    """Return the events with causes of their own, because event ids are unique in the log."""
    return [one._replace(causation_id=uuid5(one.causation_id, str(build))) for one in events]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--builds", type=int, default=100)
    parser.add_argument("--writers", type=int, default=16)
    given = parser.parse_args()
    asyncio.run(measure(given.builds, given.writers))


if __name__ == "__main__":
    main()
