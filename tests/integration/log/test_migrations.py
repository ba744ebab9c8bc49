"""`nightshift db migrate`: concurrent, repeated, after a changed file, over an older release, without a superuser."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.support import facts
from tests.support.stack import Database as Place
from tests.support.stack import create_database
from tests.support.tcp_proxy import tcp_proxy

from nightshift.contracts.model import Owner
from nightshift.contracts.registry import CATALOGUE
from nightshift.devstack.parts import PostgresAddress
from nightshift.eventlog import migrate as module
from nightshift.eventlog.errors import ConfigurationError, Fault, Unavailable
from nightshift.eventlog.migrate import Migration, known_migrations, migrate, status

#: The migrations of the release before the log and the services had SQL folders of their own, as databases hold them.
RELEASED = {
    "0001_log": "4c236ccfd171b33d0f136d25a438956402ecbf9cc4699b16faa118a9603f4870",
    "0010_relay": "75f345682bd13dc8d5f2b38b24c7c464f50698e54967a3ef58b42d82122051dc",
    "0020_budget": "41950d3a16392431be94f1d2061f77275474f1f0c62e426b308bddccb25b3580",
    "0030_orchestrator": "06ece1f042b0ce16b67edf2e7fb367094069ecaf0d95fde4acc5d7bd7d4c48b1",
    "0040_recent_builds": "02a1a800010b5438b200e93c35b714d4d471dee9b7beece9cc8b0fd016d9853c",
    "0050_append_one_by_shard": "2a957c718eb20a505cf9121c65a4c0df2f9b201d73ba9aeb95881152996cdcea",
}

#: Everything that a migration could change: tables, functions, constraints, owners and grants.
_CATALOGUE = """
SELECT p.oid::regprocedure::text, md5(p.prosrc), p.proconfig::text, p.proacl::text, p.proowner::regrole::text
FROM pg_proc p WHERE p.pronamespace = 'nightshift'::regnamespace
UNION ALL
SELECT c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ',' ORDER BY a.attnum),
    c.relkind::text, c.relacl::text, c.relowner::regrole::text
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relnamespace = 'nightshift'::regnamespace
GROUP BY c.oid, c.relname, c.relkind, c.relacl, c.relowner
UNION ALL
SELECT conname, pg_get_constraintdef(oid), '', '', '' FROM pg_constraint WHERE connamespace = 'nightshift'::regnamespace
UNION ALL
SELECT name, checksum, applied_at::text, '', '' FROM nightshift.migrations
"""


@pytest.fixture
async def empty(postgres) -> AsyncIterator[Place]:
    """An empty database."""
    place = await create_database(postgres, "test_empty")
    yield place
    await execute(postgres.admin_dsn, 'DROP DATABASE "test_empty" WITH (FORCE)')


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def nightshift(dsn: str, *arguments: str) -> tuple[int, str, str]:
    """Run the command in a process. Returns its exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "nightshift.cli",
        *arguments,
        env={"NIGHTSHIFT_POSTGRES_DSN": dsn, "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_crash_during_a_migration_is_unavailable(database: Place):
    whole = 0

    async def until_crash(answers: int) -> None:
        nonlocal whole
        async with tcp_proxy(database.server.host, database.server.port) as proxy:
            proxy.crash_after = answers
            with contextlib.suppress(Unavailable):
                await migrate(PostgresAddress(proxy.host, proxy.own_port).dsn("postgres", database.name))
                whole += 1

    for answers in (*range(8), *range(8, 128, 8)):
        await until_crash(answers)
    assert 0 < whole < 16
    assert {one.state for one in await status(database.dsn("postgres"))} == {"applied"}


async def test_five_replicas_at_once_apply_each_migration_once(empty: Place):
    runs = await asyncio.gather(*(nightshift(empty.dsn(), "db", "migrate", "--json") for _ in range(5)))
    assert [code for code, _, _ in runs] == [0] * 5, runs
    applied = [name for _, out, _ in runs for name in json.loads(out)["applied"]]
    assert sorted(applied) == [one.name for one in known_migrations()]
    code, out, _ = await nightshift(empty.dsn(), "db", "status", "--json")
    assert code == 0
    assert {one["state"] for one in json.loads(out)} == {"applied"}


def test_released_migrations_keep_their_names_and_checksums():
    known = {migration.name: migration.checksum for migration in known_migrations()}
    assert {name: known.get(name) for name in RELEASED} == RELEASED


async def test_a_database_of_the_previous_release_keeps_its_ledger(empty: Place, monkeypatch):
    released = tuple(one for one in known_migrations() if one.name in RELEASED)
    newer = [one.name for one in known_migrations() if one.name not in RELEASED]
    with monkeypatch.context() as older:
        older.setattr(module, "known_migrations", lambda: released)
        assert [one.name for one in released] == list(await migrate(empty.dsn()))
    connection = await asyncpg.connect(empty.dsn())
    try:
        before = await connection.fetch("SELECT * FROM nightshift.migrations ORDER BY name")
        assert {row["name"]: row["checksum"] for row in before} == RELEASED
        assert list(await migrate(empty.dsn())) == newer
        now = await connection.fetch("SELECT * FROM nightshift.migrations ORDER BY name")
        assert [row for row in now if row["name"] in RELEASED] == before
        catalogue = {tuple(row) for row in await connection.fetch(_CATALOGUE)}
        assert await migrate(empty.dsn()) == ()
        assert {tuple(row) for row in await connection.fetch(_CATALOGUE)} == catalogue
    finally:
        await connection.close()


async def test_each_service_brings_its_own_role_and_its_access(empty: Place):
    await migrate(empty.dsn())
    for owner in (one for one in Owner if one is not Owner.OUTSIDE):
        connection = await asyncpg.connect(empty.dsn(module.role_of(owner)))
        try:
            assert await connection.fetch("SELECT * FROM nightshift.read_stream('build-b1', 1, 2, 3)") == []
            assert await connection.fetchval("SELECT nightshift.acquire_lease('n', 'o', '1s')") > 0
        finally:
            await connection.close()


async def test_an_empty_database_waits_for_every_migration(empty: Place):
    assert [one.state for one in await status(empty.dsn())] == ["waiting"] * len(known_migrations())
    code, _, _ = await nightshift(empty.dsn(), "db", "status")
    assert code == 4


async def test_a_changed_migration_is_an_error_that_names_it(database: Place, monkeypatch):
    first, *rest = known_migrations()
    changed = (Migration(first.name, first.sql + "\n-- better"), *rest)
    monkeypatch.setattr(module, "known_migrations", lambda: changed)
    with pytest.raises(Fault, match=f"{first.name} was changed after it was applied"):
        await migrate(database.dsn())
    assert (await status(database.dsn()))[0].state == "changed"


async def test_a_database_of_a_newer_release_is_left_as_it_is(database: Place):
    await execute(
        database.dsn(),
        "INSERT INTO nightshift.migrations VALUES ('9999_later', 'x')",
        "CREATE OR REPLACE FUNCTION nightshift.shard_of(stream_id text) RETURNS smallint"
        " LANGUAGE sql IMMUTABLE RETURN 7::smallint",
    )
    assert await migrate(database.dsn()) == ()
    connection = await asyncpg.connect(database.dsn())
    assert await connection.fetchval("SELECT nightshift.shard_of('build-1')") == 7
    await connection.close()


async def test_a_failed_migration_changes_nothing(database: Place, monkeypatch):
    broken = Migration("9000_broken", "CREATE TABLE nightshift.half (n integer); SELECT 1/0;")
    known = known_migrations()
    monkeypatch.setattr(module, "known_migrations", lambda: (*known, broken))
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(database.dsn())
    monkeypatch.undo()
    assert {one.state for one in await status(database.dsn())} == {"applied"}
    connection = await asyncpg.connect(database.dsn())
    assert await connection.fetchval("SELECT to_regclass('nightshift.half')") is None
    await connection.close()


async def test_an_old_server_is_named_and_not_migrated(empty: Place, monkeypatch):
    monkeypatch.setattr(module, "OLDEST_SERVER", 99)
    with pytest.raises(ConfigurationError, match=r"PostgreSQL 99 or newer is needed, and this is \d+\.\d+"):
        await migrate(empty.dsn())
    assert {one.state for one in await status(empty.dsn())} == {"waiting"}


async def test_the_database_knows_the_role_of_each_event_type(database: Place):
    connection = await asyncpg.connect(database.dsn())
    rows = await connection.fetch("SELECT type, role, terminal, after_close FROM nightshift.event_types")
    await connection.close()
    assert {tuple(row) for row in rows} == {
        (one.type, module.role_of(one.owner), one.terminal, one.after_close)
        for one in CATALOGUE.newest.values()
        if one.owner is not Owner.OUTSIDE
    }


async def test_a_role_without_superuser_rights_can_migrate(postgres, make_log):
    """A role that may create roles and owns its database can migrate it."""
    await execute(
        postgres.admin_dsn,
        "CREATE ROLE hosted LOGIN CREATEROLE",
        "GRANT nightshift_owner TO hosted WITH ADMIN OPTION",
        "CREATE DATABASE test_hosted OWNER hosted",
    )
    try:
        place = Place(postgres, "test_hosted")
        await migrate(place.dsn("hosted"))
        assert await migrate(place.dsn("hosted")) == ()
        log = make_log(place.dsn("nightshift_orchestrator"), patience=0)
        await log.append("build-b1", [facts.note()])
        await log._database.close()
    finally:
        await execute(postgres.admin_dsn, "DROP DATABASE test_hosted WITH (FORCE)", "DROP ROLE hosted")


async def test_a_wrong_address_and_an_unknown_role_are_told_apart(database: Place, unused_tcp_port: int):
    with pytest.raises(Unavailable):
        await migrate(f"postgresql://postgres@127.0.0.1:{unused_tcp_port}/x")
    with pytest.raises(ConfigurationError):
        await migrate(database.dsn("nobody"))
