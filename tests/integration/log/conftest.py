"""Logs on a test's own database."""

from collections.abc import AsyncIterator, Callable

import pytest
from tests.support.stack import Database as Place

from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.postgres import PostgresEventLog, log_database

MakeLog = Callable[..., PostgresEventLog]


@pytest.fixture
async def make_log() -> AsyncIterator[MakeLog]:
    """Logs by DSN; closed after the test."""
    made = []

    def make(dsn: str, *, notify: bool = False, **config) -> PostgresEventLog:
        pool = log_database(PgConfig(dsn=dsn, **config))
        log = PostgresEventLog(pool, actor="tester", notify=notify)
        made.append((log, pool))
        return log

    yield make
    for log, pool in made:
        await log.close()
        await pool.close()


@pytest.fixture
def log(database: Place, make_log: MakeLog) -> PostgresEventLog:
    """The superuser's log."""
    return make_log(database.dsn(), patience=0)
