"""The queue of builds on PostgreSQL: fair among accounts, and quick with ten thousand builds in it."""

import time

from tests.support.stack import Database

from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.postgres import log_database
from nightshift.orchestrator.adapters.postgres import PostgresUnownedBuilds

_QUEUE = """
INSERT INTO nightshift.pending (kind, key, stream_id, version, opened_at)
SELECT kind, $1 || n, 'build-' || $1 || n, 1, clock_timestamp()
FROM generate_series(1, $2) AS n, unnest(ARRAY['build', 'queued']) AS kind"""
_ACCOUNTS = """
INSERT INTO nightshift.build_accounts (build_id, account_id, priority, max_active)
SELECT $1 || n, $3, n = $2, $4 FROM generate_series(1, $2) AS n"""

_PAUSED = """
INSERT INTO nightshift.pending (kind, key, stream_id, version, opened_at)
VALUES ('waiting', $1, 'build-' || $1, 2, clock_timestamp())"""


async def test_a_burst_of_one_account_does_not_delay_the_others(database: Database) -> None:
    admin = log_database(PgConfig(dsn=database.dsn()))
    pool = log_database(PgConfig(dsn=database.dsn("nightshift_orchestrator")))
    try:
        for name, builds, most in (("burst", 10_000, None), ("late", 3, 2), ("still", 2, 1)):
            await admin.fetch(_QUEUE, name, builds)
            await admin.fetch(_ACCOUNTS, name, builds, name, most)
        await admin.fetch(_PAUSED, "still2")
        unowned = PostgresUnownedBuilds(pool)
        began = time.monotonic()
        found = await unowned.unowned(limit=200, per_account=100)
        assert time.monotonic() - began < 2.0
        # The last build of each account has the tier priority. A paused one takes no place.
        assert found[:5] == ["burst10000", "late3", "still1", "burst1", "late1"]
        assert len(found) == 103
        started = "DELETE FROM nightshift.pending WHERE kind = 'queued' AND key = ANY ($1)"
        await admin.fetch(started, found[:60])
        again = await unowned.unowned(limit=200, per_account=60)
        assert set(again[:60]) == set(found[:60])  # those that have started come first
        assert (
            len(again) == 63
        )  # 57 of the burst have started, so three more may; those of `late` are two already
    finally:
        await pool.close()
        await admin.close()
