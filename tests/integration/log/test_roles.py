"""The passwords of the database roles: set all or none, never in clear text, and enough to log in."""

import base64
import hashlib
import hmac

import asyncpg
import pytest

from nightshift.eventlog.errors import ConfigurationError, Refused
from nightshift.eventlog.migrate import check, migrate
from nightshift.eventlog.roles import roles, scram_verifier, set_passwords

_STORED = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE 'nightshift%'"


@pytest.fixture
async def admin(database):
    connection = await asyncpg.connect(database.dsn())
    before = dict(await connection.fetch(_STORED))
    yield connection
    for role, password in before.items():  # roles belong to the server, which other tests share
        await connection.execute(
            f"ALTER ROLE {role} PASSWORD {'NULL' if password is None else repr(password)}"
        )
    await connection.close()


async def test_a_password_is_stored_as_its_scram_verifier(admin, database):
    await set_passwords(database.dsn(), {"nightshift_relay": "p4ss'word\""})
    stored = dict(await admin.fetch(_STORED))["nightshift_relay"]
    rounds, salt = stored.split("$")[1].split(":")
    assert stored == scram_verifier("p4ss'word\"", salt=base64.b64decode(salt))
    salted = hashlib.pbkdf2_hmac("sha256", b"p4ss'word\"", base64.b64decode(salt), int(rounds))
    key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    assert base64.b64decode(stored.split("$")[2].split(":")[0]) == key


async def test_the_verifier_is_the_servers_own(admin):
    await admin.execute("ALTER ROLE nightshift_reader PASSWORD 'as the server computes it'")
    stored = dict(await admin.fetch(_STORED))["nightshift_reader"]
    salt = base64.b64decode(stored.split("$")[1].split(":")[1])
    assert scram_verifier("as the server computes it", salt=salt) == stored


async def test_an_unknown_role_changes_no_password(admin, database):
    before = dict(await admin.fetch(_STORED))
    with pytest.raises(Refused, match="nightshift_cook"):
        await set_passwords(database.dsn(), {"nightshift_relay": "a", "nightshift_cook": "b"})
    assert dict(await admin.fetch(_STORED)) == before


@pytest.mark.parametrize("password", ["", "ünsafe", "two\nlines"])
def test_a_password_that_could_be_altered_is_refused(password):
    with pytest.raises(Refused):
        scram_verifier(password)


async def test_every_service_has_a_role_that_logs_in(database):
    assert {one.name for one in await roles(database.dsn()) if one.logs_in} >= {
        f"nightshift_{name}"
        for name in ("orchestrator", "sandbox_gateway", "snapshotter", "budget", "relay", "reader")
    }


async def test_a_check_of_a_migration_changes_nothing(postgres, database):
    connection = await asyncpg.connect(database.dsn())
    last = await connection.fetchval(
        "DELETE FROM nightshift.migrations WHERE name = (SELECT max(name) FROM nightshift.migrations) RETURNING name"
    )
    with pytest.raises(
        Exception, match="already exists"
    ):  # the migration itself fails, and so does its check
        await check(database.dsn())
    await connection.execute("DROP SCHEMA nightshift CASCADE")
    assert last in await check(database.dsn())
    assert await connection.fetchval("SELECT to_regnamespace('nightshift')") is None
    assert last in await migrate(database.dsn())
    assert await check(database.dsn()) == ()
    await connection.close()


async def test_a_check_refuses_a_database_of_a_newer_release(database):
    connection = await asyncpg.connect(database.dsn())
    await connection.execute("INSERT INTO nightshift.migrations (name, checksum) VALUES ('9999_later', 'x')")
    await connection.close()
    with pytest.raises(ConfigurationError, match="9999_later"):
        await check(database.dsn())
