"""A key that the provider refuses for a while, with real servers: the builds wait, and all go on by themselves."""

import pytest
from tests.integration.orchestrator.conftest import RunningServers
from tests.integration.orchestrator.test_service import asked
from tests.support import build_invariants
from tests.support.stack import Database

from nightshift.contracts.model import PendingKind
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.postgres import log_database

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


@pytest.mark.long
async def test_builds_wait_for_a_refused_key_and_go_on_without_a_person(
    servers: RunningServers, database: Database
):
    """The scripted model refuses four calls: the first of three builds, and one probe."""
    await servers.orchestrator("one", provider_probe_s="1")
    builds = ("b1", "b2", "b3")
    for build_id in builds:
        await servers.send(asked(build_id, "An expired key."))
    for build_id in builds:
        await servers.reached(build_id, "build.waiting", timeout=20)
    for build_id in builds:
        events = [event.data for event in await servers.reached(build_id, "build.ready")]
        assert build_invariants.violations(events) == []
        assert [event.reason for event in events if event.type == "build.resumed"][-1] == "provider"
    assert servers.said("one").count("provider.blocked") == 1
    assert servers.said("one").count("provider.recovered") == 1
    assert await servers.log.pending(PendingKind.PROVIDER) == []
    connection = log_database(PgConfig(dsn=database.dsn("nightshift_reader")))
    try:
        [row] = await connection.fetch("SELECT * FROM nightshift.provider_keys")
    finally:
        await connection.close()
    assert (row["refused_at"], row["incidents"], row["status"]) == (None, 1, 401)
    assert "any" not in row["key_id"]
