"""A service whose role, migrations, topics or bucket are missing ends with exit code 4 and says how to mend it."""

import asyncio

import pytest
from tests.integration.service.conftest import Running, StartService
from tests.support.stack import Database, create_database

from nightshift.devstack.parts import S3Address

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]

BUDGET = ("-m", "nightshift.budget")
RELAY = ("-m", "nightshift.relay")


async def refused(running: "asyncio.Future[Running]") -> str:
    """Waits for the end of the process, checks the exit code, and returns its log."""
    process = await running
    try:
        async with asyncio.timeout(80):
            assert await process.process.wait() == 4, process.log()
    except TimeoutError:
        raise AssertionError(f"it has not ended: {process.log()}") from None
    return process.log()


async def test_each_missing_precondition_is_named_with_its_remedy(
    start_service: StartService, database: Database, s3: S3Address
) -> None:
    await create_database(database.server, f"{database.name}_empty")
    empty = Database(database.server, f"{database.name}_empty")
    store = {
        "s3_endpoint": s3.endpoint,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
        "s3_region": s3.region,
    }
    role, schema, topics, relay, bucket, relative = await asyncio.gather(
        refused(start_service(command=BUDGET, group="", postgres_dsn=database.dsn("nightshift_owner"))),
        refused(start_service(command=BUDGET, group="", postgres_dsn=empty.dsn("nightshift_budget"))),
        refused(start_service(topic_prefix="no-such-installation")),
        refused(
            start_service(
                command=RELAY,
                group="",
                postgres_dsn=database.dsn("nightshift_relay"),
                topic_prefix="no-such-installation",
            )
        ),
        refused(start_service(**store, s3_bucket="no-such-bucket")),
        refused(start_service(home="here")),
    )
    assert "logs in as nightshift_owner, which may not act as nightshift_budget" in role
    assert "GRANT nightshift_budget TO nightshift_owner" in role
    assert "lacks the migrations 0001_log" in schema
    assert "nightshift db migrate" in schema
    assert "has no topic no-such-installation.requests.v1" in topics
    assert "nightshift topics apply" in topics
    assert "no-such-installation.budget.v1, no-such-installation.build.v1" in relay
    assert "create the bucket" in bucket
    assert "NIGHTSHIFT_HOME is wrong" in relative
    assert not any("Traceback" in log for log in (role, schema, topics, relay, bucket, relative))
