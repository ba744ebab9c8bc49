"""Processes report themselves in the database, and learn there that their service is drained."""

import asyncpg
import pytest
from tests.support.stack import Database

from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.errors import ConfigurationError
from nightshift.eventlog.postgres import log_database
from nightshift.servicekit.replicas import Replica, ReplicaReporter, Work


async def test_replicas_see_each_other_and_their_drain(database: Database) -> None:
    pool = log_database(PgConfig(dsn=database.dsn("nightshift_orchestrator")))
    one, two = (ReplicaReporter(pool, name, "orchestrator") for name in ("one", "two"))
    changes: list[bool] = []
    one.work, one.on_drained = lambda: Work(3, 7), changes.append
    administrator = await asyncpg.connect(database.dsn())
    try:
        await one.report()
        await two.report()
        await ReplicaReporter(pool, "other", "budget").report()
        assert await two.peers() == [Replica("one", Work(3, 7)), Replica("two", Work())]
        await administrator.execute("SELECT nightshift.set_drained('orchestrator', true)")
        await one.report()
        await one.report()
        assert (one.drained, changes) == (True, [True])
        await administrator.execute("SELECT nightshift.set_drained('orchestrator', false)")
        await one.report()
        assert changes == [True, False]
        await two.forget()
        assert await one.peers() == [Replica("one", Work(3, 7))]
        with pytest.raises(ConfigurationError, match="permission denied"):  # a service cannot drain another
            await pool.fetch("SELECT nightshift.set_drained('budget', true)")
    finally:
        await administrator.close()
        await pool.close()
