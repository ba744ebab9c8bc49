"""The database roles of an installation, and their passwords. The server never sees a password in clear text."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from nightshift.eventlog.database import open_connection, translated
from nightshift.eventlog.errors import Refused

#: All our roles have names that begin so. `nightshift_owner` owns the schema; services never use it.
PREFIX = "nightshift_"
#: PostgreSQL's own number of rounds (RFC 7677 asks for at least 4,096).
_ROUNDS = 4096

_ROLES = r"""
SELECT rolname AS name, rolcanlogin AS logs_in FROM pg_catalog.pg_roles
WHERE rolname LIKE 'nightshift\_%' ORDER BY rolname"""


@dataclass(frozen=True, slots=True)
class DatabaseRole:
    """A database role of the installation, such as `nightshift_relay`. `logs_in`: it may log in."""

    name: str
    logs_in: bool


async def roles(dsn: str) -> Sequence[DatabaseRole]:
    """Return the installation's roles, sorted by name. Raises Unavailable and ConfigurationError."""
    connection = await open_connection(dsn, "nightshift-roles")
    try:
        with translated():
            return [DatabaseRole(row["name"], row["logs_in"]) for row in await connection.fetch(_ROLES)]
    finally:
        await connection.close()


async def set_passwords(dsn: str, passwords: Mapping[str, str]) -> None:
    """Set the password of each role in `passwords` (role name → password), all or none. Open connections stay open.

    Needs a superuser, or the role that created the roles. Raises Refused when a role does not exist, or when a
    password is empty or not printable ASCII.
    """
    verifiers = {role: scram_verifier(password) for role, password in passwords.items()}
    connection = await open_connection(dsn, "nightshift-roles")
    try:
        with translated():
            known = {row["name"] for row in await connection.fetch(_ROLES)}
            if unknown := sorted(verifiers.keys() - known):
                raise Refused(
                    f"the database has no role {', '.join(unknown)}",
                    hint="run `nightshift db migrate` first, and name each file after a role",
                )
            async with connection.transaction():
                for role, verifier in verifiers.items():
                    await _alter(connection, role, verifier)
    finally:
        await connection.close()


async def _alter(connection: asyncpg.Connection, role: str, verifier: str) -> None:
    # ALTER ROLE takes no parameters. The server quotes both, and its log shows the verifier at most.
    statement = await connection.fetchval(
        "SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)", role, verifier
    )
    await connection.execute(statement)


def scram_verifier(password: str, *, salt: bytes | None = None) -> str:
    """Return the SCRAM-SHA-256 verifier that PostgreSQL stores for a password.

    Raises Refused when the password is not printable ASCII, because PostgreSQL would normalise other characters.
    """
    if not password.isascii() or not password.isprintable() or not password:
        raise Refused(
            "a password is empty or has a character other than printable ASCII",
            hint="draw one with `openssl rand -hex 24`, and write it without a line break",
        )
    salt = salt or secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ROUNDS)
    client = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, client, server)]
    return f"SCRAM-SHA-256${_ROUNDS}:{encoded[0]}${encoded[1]}:{encoded[2]}"
