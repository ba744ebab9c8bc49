"""The accounts of projects on PostgreSQL, under the orchestrator's own role."""

from collections.abc import AsyncIterator

import pytest
from tests.support.project_conformance import ProjectConformance
from tests.support.stack import Database

from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.postgres import log_database
from nightshift.orchestrator.adapters.postgres import PostgresProjects


class TestPostgresProjects(ProjectConformance):
    @pytest.fixture
    async def projects(self, database: Database) -> AsyncIterator[PostgresProjects]:
        pool = log_database(PgConfig(dsn=database.dsn("nightshift_orchestrator")))
        yield PostgresProjects(pool)
        await pool.close()
