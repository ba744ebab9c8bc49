"""No role can change the log, and no service can append events of another service."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.support import facts
from tests.support.stack import Database as Place

from nightshift.contracts.model import Owner
from nightshift.eventlog.errors import ConfigurationError, ForeignEventType
from nightshift.eventlog.migrate import role_of
from nightshift.eventlog.postgres import PostgresEventLog

SERVICES = (
    "nightshift_orchestrator",
    "nightshift_sandbox_gateway",
    "nightshift_snapshotter",
    "nightshift_budget",
    "nightshift_relay",
    "nightshift_reader",
)
CHANGES = (
    "UPDATE nightshift.events SET data = '{}'",
    "DELETE FROM nightshift.events",
    "TRUNCATE nightshift.events",
)
STREAM = "build-b1"


@pytest.fixture
async def filled(log: PostgresEventLog, database: Place) -> AsyncIterator[Place]:
    await log.append(STREAM, [facts.note("one"), facts.call("b1/1/0")])
    yield database
    assert [event.data.type async for event in log.read_stream(STREAM)] == [
        "agent.steered",
        "tool_call.requested",
    ]


async def attempt(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_every_role_of_the_migration_is_tested_here(database: Place):
    connection = await asyncpg.connect(database.dsn())
    roles = await connection.fetch("SELECT rolname FROM pg_roles WHERE rolname LIKE 'nightshift%'")
    await connection.close()
    assert {row[0] for row in roles} == {*SERVICES, "nightshift_owner"}


@pytest.mark.parametrize("role", SERVICES)
async def test_no_service_may_write_the_tables_directly(filled: Place, role: str):
    for statement in (
        *CHANGES,
        "INSERT INTO nightshift.events OVERRIDING SYSTEM VALUE SELECT * FROM nightshift.events",
        "INSERT INTO nightshift.streams SELECT * FROM nightshift.streams",
        "DELETE FROM nightshift.pending",
        "UPDATE nightshift.event_types SET role = current_user",
        "UPDATE nightshift.leases SET fence = 1",
        "SELECT data FROM nightshift.events",
        "ALTER TABLE nightshift.events DISABLE TRIGGER ALL",
        "DROP TABLE nightshift.events",
        "CREATE TABLE nightshift.more (n integer)",
        "SELECT nightshift.change_pending('build-b1', 0, now(), '{build}', '{b1}', '{null}', '{null}', '{null}')",
    ):
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError)):
            await attempt(filled.dsn(role), statement)


@pytest.mark.parametrize("statement", CHANGES)
async def test_the_owner_of_the_table_is_refused_by_the_trigger(filled: Place, statement: str):
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await attempt(filled.dsn("nightshift_owner"), statement)


@pytest.mark.parametrize("statement", CHANGES)
async def test_a_superuser_in_replica_mode_is_refused_too(filled: Place, statement: str):
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await attempt(filled.dsn(), "SET session_replication_role = replica", statement)


@pytest.mark.parametrize("owner", [Owner.BUDGET, Owner.SANDBOX_GATEWAY, Owner.SNAPSHOTTER])
async def test_a_service_cannot_append_anothers_events(filled: Place, make_log, owner: Owner):
    log = make_log(filled.dsn(role_of(owner)))
    for event in (facts.accepted("b1"), facts.phase(), facts.cancelled()):
        with pytest.raises(ForeignEventType):
            await log.append(STREAM, [event])


@pytest.mark.parametrize("role", ["nightshift_relay", "nightshift_reader"])
async def test_a_reading_role_cannot_append(filled: Place, make_log, role: str):
    with pytest.raises(ConfigurationError):
        await make_log(filled.dsn(role)).append(STREAM, [facts.note()])


async def test_setting_another_role_does_not_allow_the_append(filled: Place):
    for statement in (
        "SET ROLE nightshift_orchestrator",
        "SET SESSION AUTHORIZATION nightshift_orchestrator",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await attempt(filled.dsn("nightshift_budget"), statement)


async def test_a_function_of_a_service_cannot_shadow_ours(filled: Place, make_log):
    """A service with a schema of its own cannot replace the pg_has_role or event_types that an append uses."""
    await attempt(filled.dsn(), "CREATE SCHEMA trick AUTHORIZATION nightshift_budget")
    await attempt(
        filled.dsn("nightshift_budget"),
        "CREATE FUNCTION trick.pg_has_role(name, name, text) RETURNS boolean LANGUAGE sql RETURN true",
        "CREATE TABLE trick.event_types (type text, role name, terminal boolean, after_close boolean)",
    )
    await attempt(
        filled.dsn(), "ALTER ROLE nightshift_budget SET search_path = trick, pg_catalog, nightshift"
    )
    try:
        with pytest.raises(ForeignEventType):
            await make_log(filled.dsn("nightshift_budget")).append(STREAM, [facts.phase()])
    finally:
        await attempt(filled.dsn(), "ALTER ROLE nightshift_budget RESET search_path")


async def test_security_definer_functions_fix_the_search_path(database: Place):
    connection = await asyncpg.connect(database.dsn())
    try:
        loose = await connection.fetch(
            """SELECT proname FROM pg_proc WHERE pronamespace = 'nightshift'::regnamespace AND prosecdef
               AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)"""
        )
        public = await connection.fetch(
            """SELECT proname FROM pg_proc WHERE pronamespace = 'nightshift'::regnamespace
               AND EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0)"""
        )
        owners = await connection.fetch(
            "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'nightshift'::regnamespace"
        )
    finally:
        await connection.close()
    assert [row[0] for row in loose] == []
    assert [row[0] for row in public] == []
    assert [row[0] for row in owners] == ["nightshift_owner"]
