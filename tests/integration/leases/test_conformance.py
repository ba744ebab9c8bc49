"""Leases in PostgreSQL pass the conformance suite, with a service's role and the database's clock."""

from collections.abc import AsyncIterator

import pytest
from tests.support.lease_conformance import LeaseConformance, Pass
from tests.support.stack import Database as Place

from nightshift.eventlog.database import Database, PgConfig
from nightshift.eventlog.leases.postgres import PostgresLeases


class TestPostgresLeases(LeaseConformance):
    @pytest.fixture
    async def server(self, database: Place) -> AsyncIterator[Database]:
        server = Database(PgConfig(dsn=database.dsn("nightshift_orchestrator"), patience=0))
        yield server
        await server.close()

    @pytest.fixture
    def leases(self, server: Database) -> PostgresLeases:
        return PostgresLeases(server)

    @pytest.fixture
    def passes(self, server: Database) -> Pass:
        async def sleep(seconds: float) -> None:
            await server.fetch("SELECT pg_sleep($1)", seconds)

        return sleep
