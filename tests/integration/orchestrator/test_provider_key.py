"""The table `provider_keys` behaves as the port ProviderKey demands."""

from collections.abc import AsyncIterator

import pytest
from tests.support.provider_key_conformance import ProviderKeyConformance
from tests.support.stack import Database

from nightshift.eventlog import database as log_databases
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.postgres import log_database
from nightshift.orchestrator.adapters.provider_key import PostgresProviderKey


class TestPostgresProviderKey(ProviderKeyConformance):
    @pytest.fixture
    async def pool(self, database: Database) -> AsyncIterator[log_databases.Database]:
        pool = log_database(PgConfig(dsn=database.dsn("nightshift_orchestrator"), max_connections=4))
        yield pool
        await pool.close()

    @pytest.fixture
    def key(self, pool: log_databases.Database) -> PostgresProviderKey:
        return PostgresProviderKey(pool, "k", first_probe_s=1_800, longest_probe_s=3_600)

    @pytest.fixture
    def other(self, pool: log_databases.Database) -> PostgresProviderKey:
        return PostgresProviderKey(pool, "k", first_probe_s=1_800, longest_probe_s=3_600)

    @pytest.fixture
    def foreign(self, pool: log_databases.Database) -> PostgresProviderKey:
        return PostgresProviderKey(pool, "f", first_probe_s=1_800, longest_probe_s=3_600)

    @pytest.fixture
    def impatient(self, pool: log_databases.Database) -> PostgresProviderKey:
        return PostgresProviderKey(pool, "k", first_probe_s=0.0, longest_probe_s=3_600)
