"""The PostgreSQL log passes the conformance suites, each service with its own role."""

from collections.abc import AsyncIterator

import pytest
from tests.support.log_conformance import LogConformance, Writer
from tests.support.pending_conformance import LeavePending, PendingConformance
from tests.support.stack import Database as Place

from nightshift.contracts.model import Owner
from nightshift.eventlog.database import Database, PgConfig
from nightshift.eventlog.migrate import role_of
from nightshift.eventlog.port import PendingItem
from nightshift.eventlog.postgres import PostgresEventLog, log_database


class TestPostgresEventLog(LogConformance, PendingConformance):
    @pytest.fixture
    async def log(self, database: Place) -> AsyncIterator[PostgresEventLog]:
        pool = log_database(PgConfig(dsn=database.dsn(), patience=0))
        log = PostgresEventLog(pool, actor="tester", page=2)
        yield log
        await log.close()
        await pool.close()

    @pytest.fixture
    async def writer(self, database: Place) -> AsyncIterator[Writer]:
        pools: list[Database] = []

        def make(owner: Owner) -> PostgresEventLog:
            pools.append(log_database(PgConfig(dsn=database.dsn(role_of(owner)), patience=0)))
            return PostgresEventLog(pools[-1], actor=owner.value, notify=False)

        yield make
        for pool in pools:
            await pool.close()

    @pytest.fixture
    def leave_pending(self, log: PostgresEventLog) -> LeavePending:
        async def leave(item: PendingItem) -> None:
            await log._database.fetch(
                "INSERT INTO nightshift.pending VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (kind, key, stream_id)"
                " DO UPDATE SET opened_at = excluded.opened_at, due_at = excluded.due_at",
                *(item.kind.value, item.key, item.stream_id, item.version, item.opened_at, item.due_at),
            )

        return leave

    async def test_the_reader_may_ask_for_stale_rows(self, database: Place):
        reader = log_database(PgConfig(dsn=database.dsn("nightshift_reader"), patience=0))
        assert await PostgresEventLog(reader, actor="reader", notify=False).stale_pending() == []
        await reader.close()
