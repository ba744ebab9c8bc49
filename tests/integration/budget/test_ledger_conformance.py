"""The ledger on PostgreSQL behaves as the port Ledger demands."""

from collections.abc import AsyncIterator

import pytest
from tests.support.ledger_conformance import LedgerConformance
from tests.support.stack import Database

from nightshift.budget.adapters.postgres import PostgresLedger
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.postgres import PostgresEventLog, log_database


class TestPostgresLedger(LedgerConformance):
    @pytest.fixture
    async def logs(self, database: Database) -> AsyncIterator[list[PostgresEventLog]]:
        roles = ("nightshift_budget", "nightshift_orchestrator")
        pools = [log_database(PgConfig(dsn=database.dsn(role), max_connections=8)) for role in roles]
        yield [PostgresEventLog(pool, actor="test", notify=False) for pool in pools]
        for pool in pools:
            await pool.close()

    @pytest.fixture
    def log(self, logs: list[PostgresEventLog]) -> PostgresEventLog:
        return logs[0]

    @pytest.fixture
    def builds(self, logs: list[PostgresEventLog]) -> PostgresEventLog:
        return logs[1]

    @pytest.fixture
    def ledger(self, log: PostgresEventLog) -> PostgresLedger:
        return PostgresLedger(log._database, log)
