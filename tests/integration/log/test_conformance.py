"""The PostgreSQL log keeps the promises of the port, each service under its own role."""

from collections.abc import AsyncIterator

import pytest
from tests.support.log_conformance import LogConformance, Writer
from tests.support.stack import Database as Place

from nightshift.contracts.model import Owner
from nightshift.eventlog.database import Database, PgConfig
from nightshift.eventlog.migrate import role_of
from nightshift.eventlog.postgres import PostgresEventLog, log_database


class TestPostgresEventLog(LogConformance):
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
            return PostgresEventLog(pools[-1], actor=owner.value, hint=False)

        yield make
        for pool in pools:
            await pool.close()
