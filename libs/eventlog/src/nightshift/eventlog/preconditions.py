"""Checks that the database and the bucket of a service are set up, before it starts. Each error names the command that
helps.
"""

import asyncio

import structlog

from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import ConfigurationError, NotFound, Transient
from nightshift.eventlog.migrate import known_migrations
from nightshift.eventlog.objects.port import ObjectStore

_log = structlog.get_logger(__name__)

#: Seconds that the object store may take to answer. A service starts even without an answer, because few events need
#: the store.
_STORE_S = 5.0
#: A key that nobody writes. Reading it shows whether the bucket exists and may be read.
_ABSENT = "preconditions/absent"

_ROLE = """
SELECT session_user::text AS login, r.oid IS NOT NULL AS known,
    coalesce(pg_catalog.pg_has_role(session_user, r.oid, 'USAGE'), false) AS granted
FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_roles r ON r.rolname = $1"""
_PREPARED = "SELECT to_regprocedure('nightshift.applied_migrations()') IS NOT NULL"
_MIGRATE = "run `nightshift db migrate` of this release, with an administrator's NIGHTSHIFT_POSTGRES_DSN"


async def check_database(database: Database, role: str | None) -> None:
    """Check that every migration of this release is applied. If `role` is given, first check that the login may act as
    it.

    Migrations of a newer release are accepted, because they only add things. Raises ConfigurationError and
    Unavailable.
    """
    if role is not None:
        await _check_role(database, role)
    applied: set[str] = set()
    if (await database.fetch(_PREPARED))[0][0]:
        applied = {row[0] for row in await database.fetch("SELECT * FROM nightshift.applied_migrations()")}
    missing = [one.name for one in known_migrations() if one.name not in applied]
    if missing:
        raise ConfigurationError(f"the database lacks the migrations {', '.join(missing)}", hint=_MIGRATE)


async def _check_role(database: Database, role: str) -> None:
    found = (await database.fetch(_ROLE, role))[0]
    if not found["known"]:
        raise ConfigurationError(f"the database server has no role {role}", hint=_MIGRATE)
    if not found["granted"]:
        raise ConfigurationError(
            f"NIGHTSHIFT_POSTGRES_DSN logs in as {found['login']}, which may not act as {role}",
            hint=f"log in as {role}, or let an administrator run GRANT {role} TO {found['login']}",
        )


async def check_bucket(objects: ObjectStore) -> None:
    """Check that the bucket exists and may be read. Raises ConfigurationError if not.

    When the server does not answer, only logs `object_store.unavailable`.
    """
    try:
        async with asyncio.timeout(_STORE_S):
            await objects.get(_ABSENT)
    except NotFound:
        return
    except (Transient, TimeoutError) as error:
        _log.warning("object_store.unavailable", error=str(error) or f"no answer within {_STORE_S:.0f} s")
