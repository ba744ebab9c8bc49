"""Compares the PostgreSQL log with a plain model under random steps."""

import asyncio

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.support.log_machine import LogMachine
from tests.support.stack import fresh_database

from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.postgres import PostgresEventLog, log_database


@pytest.mark.timeout(120)
def test_the_log_on_postgresql_does_what_the_model_does(postgres):
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        class PostgresMachine(LogMachine):
            def make_log(self) -> PostgresEventLog:
                self.database = fresh_database(postgres)
                place = loop.run_until_complete(self.database.__aenter__())
                self.pool = log_database(PgConfig(dsn=place.dsn(), patience=0))
                return PostgresEventLog(self.pool, actor="machine", notify=False)

            def teardown(self) -> None:
                loop.run_until_complete(self.pool.close())
                loop.run_until_complete(self.database.__aexit__(None, None, None))

        PostgresMachine.loop = loop
        run_state_machine_as_test(
            PostgresMachine,
            settings=settings(
                max_examples=10,
                stateful_step_count=20,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
