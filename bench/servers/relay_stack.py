"""The servers of the relay's bench, each run with its own: PostgreSQL, a broker, one relay, and a backlog of events."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import EmbeddedKafka, EmbeddedPostgres
from nightshift.devstack.parts.kafka import EMBEDDED_PARTITIONS
from nightshift.eventlog.migrate import migrate
from nightshift.relay.adapters.kafka_topics import apply

TEXT = "the quick brown fox jumps over the lazy dog; " * 21  # about 1 KB of data
BUILDS = 100
_ALLOW_PREPARED = {"max_prepared_transactions": "1"}


@dataclass
class Stack:
    """The servers of one run."""

    postgres: EmbeddedPostgres
    dsn: str
    other_dsn: str
    relay_dsn: str
    bootstrap: str
    folder: Path


@contextlib.asynccontextmanager
async def stack() -> AsyncIterator[Stack]:
    """PostgreSQL and broker, both empty, with the log's schema and the topics."""
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        postgres, kafka = EmbeddedPostgres(folder / "pg", settings=_ALLOW_PREPARED), EmbeddedKafka(folder)
        address = await postgres.start()
        broker = await kafka.start()
        try:
            admin = await asyncpg.connect(address.admin_dsn)
            await admin.execute("CREATE DATABASE nightshift")
            await admin.close()
            await migrate(address.dsn())
            settings = KafkaSettings(kafka_bootstrap=broker.bootstrap)
            await apply(settings, partitions=EMBEDDED_PARTITIONS, replication=1)
            yield Stack(
                postgres,
                address.dsn(),
                address.admin_dsn,
                address.dsn("nightshift_relay"),
                broker.bootstrap,
                folder,
            )
        finally:
            await kafka.stop()
            await postgres.stop()


@contextlib.asynccontextmanager
async def relay(on: Stack, topics: Topics) -> AsyncIterator[asyncio.subprocess.Process]:
    """One relay process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "nightshift.relay",
        env={
            **os.environ,
            "NIGHTSHIFT_POSTGRES_DSN": on.relay_dsn,
            "NIGHTSHIFT_KAFKA_BOOTSTRAP": on.bootstrap,
            "NIGHTSHIFT_KAFKA_IDEMPOTENCE": "false",
            "NIGHTSHIFT_KAFKA_ADAPTIVE_FETCH": "true",
            "NIGHTSHIFT_TOPIC_PREFIX": topics.prefix,
            "NIGHTSHIFT_LOG_LEVEL": "warning",
        },
    )
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


async def leads(on: Stack) -> None:
    """Wait until the relay has the locks of its shards."""
    watch = await asyncpg.connect(on.dsn)
    while not await watch.fetchval("SELECT count(*) FROM pg_locks WHERE classid = 20042 AND granted"):
        await asyncio.sleep(0.05)
    await watch.close()


async def fill(on: Stack, count: int, *, builds: int = BUILDS, text: str = TEXT) -> None:
    """A backlog, straight into the table: what is measured is the relay."""
    connection = await asyncpg.connect(on.dsn)
    await connection.execute(
        """
        INSERT INTO nightshift.events (shard, stream_id, version, event_id, type, schema_version, data,
            correlation_id, causation_id, actor, closed)
        SELECT nightshift.shard_of(s.stream), s.stream, h.head + row_number() OVER (PARTITION BY s.stream ORDER BY n),
            gen_random_uuid(), 'agent.steered', 1, $2, 'c', gen_random_uuid(), 'orchestrator/bench', false
        FROM generate_series(1, $1) AS n
        CROSS JOIN LATERAL (SELECT 'build-bench' || n % $3::int AS stream) AS s
        CROSS JOIN LATERAL (
            SELECT coalesce(max(e.version), 0) AS head FROM nightshift.events e WHERE e.stream_id = s.stream
        ) AS h ORDER BY n
        """,
        count,
        json.dumps({"reason": "person", "message": text}),
        builds,
    )
    await connection.execute("VACUUM ANALYZE nightshift.events")
    await connection.close()
