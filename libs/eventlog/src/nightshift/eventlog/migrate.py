"""Brings a database to this release: roles, new migrations, functions, access rights, and event types.

A database cannot be brought back to an older release. Everything runs in one transaction under an advisory lock, so
all replicas may run it at the same time.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal

import asyncpg
import structlog

from nightshift.contracts.model import Event, Owner
from nightshift.contracts.registry import CATALOGUE
from nightshift.eventlog.database import open_connection, translated
from nightshift.eventlog.errors import ConfigurationError, Fault, Unavailable

_log = structlog.get_logger(__name__)

#: The oldest major version of PostgreSQL that the tests cover.
OLDEST_SERVER = 15

#: The entry-point group in which a service names the package that holds its `sql` folder.
SQL_ENTRY_POINTS = "nightshift.sql"

#: The advisory lock of migrations. Our lock classes start at 20040; shards have 20041.
_LOCK = "SELECT pg_advisory_xact_lock(20040, 0)"

_LEDGER = """
CREATE TABLE IF NOT EXISTS nightshift.migrations (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""

_SYNC_TYPES = """
INSERT INTO nightshift.event_types AS t (type, role, terminal, after_close)
SELECT * FROM unnest($1::text[], $2::name[], $3::boolean[], $4::boolean[])
ON CONFLICT (type) DO UPDATE
    SET role = excluded.role, terminal = excluded.terminal, after_close = excluded.after_close
    WHERE (t.role, t.terminal, t.after_close)
        IS DISTINCT FROM (excluded.role, excluded.terminal, excluded.after_close)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """A file of a `sql/migrations` folder, named by its number. The file never changes after a release."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """The SHA-256 of the file, in hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MigrationState:
    """Whether a migration is in the database.

    - `applied`: it is.
    - `waiting`: it is not applied yet.
    - `changed`: its file differs from the one that was applied.
    - `unknown`: a newer release applied it.
    """

    name: str
    state: Literal["applied", "waiting", "changed", "unknown"]
    applied_at: datetime | None


async def migrate(dsn: str) -> tuple[str, ...]:
    """Bring the database to this release. Returns the names of the migrations that this call applied.

    Needs a superuser, or a role that may create roles and schemas. Does nothing when a newer release has migrated the
    database. Raises Fault when an applied file has changed, Unavailable without an answer, and ConfigurationError.
    """
    async with _connected(dsn) as connection:
        _refuse_old(connection)
        async with connection.transaction():
            await connection.execute(_LOCK)
            return await _migrate(connection)


async def check(dsn: str) -> tuple[str, ...]:
    """Migrate in a transaction and roll it back. Returns the names of the migrations that `migrate` would apply.

    Raises the errors of `migrate`, Unavailable when a table stays locked for 5 s, and ConfigurationError when a newer
    release has migrated the database.
    """
    async with _connected(dsn) as connection:
        _refuse_old(connection)
        newer = [
            one.name
            for one in _compare(known_migrations(), await _applied(connection))
            if one.state == "unknown"
        ]
        if newer:
            raise ConfigurationError(
                f"the database was migrated by a newer release, which added {', '.join(newer)}",
                hint="deploy that release or a later one",
            )
        transaction = connection.transaction()
        await transaction.start()
        try:
            with translated():
                await connection.execute("SET LOCAL lock_timeout = '5s'")
                await connection.execute(_LOCK)
                return await _migrate(connection)
        finally:
            if not connection.is_closed():
                await transaction.rollback()


async def status(dsn: str) -> tuple[MigrationState, ...]:
    """Return the state of each migration, sorted by name. Raises ConfigurationError and Unavailable."""
    async with _connected(dsn) as connection:
        return _compare(known_migrations(), await _applied(connection))


def known_migrations() -> tuple[Migration, ...]:
    """Return the migrations of this release, in the order of their numbers."""
    migrations = [
        Migration(entry.name.removesuffix(".sql"), _text(entry))
        for folder in _sql_folders()
        for entry in _sql_files(folder / "migrations")
    ]
    return tuple(sorted(migrations, key=lambda migration: migration.name))


def _sql_folders() -> list[Traversable]:
    """Return the `sql` folder of the log, followed by those of the installed services.

    Each contains roles.sql and access.sql (the rights of the service's role on the log). It may contain the folders
    `migrations` and `functions`.
    """
    services = sorted(entry_points(group=SQL_ENTRY_POINTS), key=lambda point: point.name)
    return [files(__package__) / "sql", *(files(point.value) / "sql" for point in services)]


def _refuse_old(connection: asyncpg.Connection) -> None:
    version = connection.get_server_version()
    if version.major < OLDEST_SERVER:
        raise ConfigurationError(
            f"PostgreSQL {OLDEST_SERVER} or newer is needed, and this is {version.major}.{version.minor}",
            hint="give the address of a newer server in NIGHTSHIFT_POSTGRES_DSN",
        )


async def _migrate(connection: asyncpg.Connection) -> tuple[str, ...]:
    applied = await _applied(connection)
    states = _compare(known_migrations(), applied)
    changed = [one.name for one in states if one.state == "changed"]
    if changed:
        raise Fault(
            f"migration {', '.join(changed)} was changed after it was applied to this database",
            hint="restore the file as it was, and put the change into a new migration",
        )
    newer = [one.name for one in states if one.state == "unknown"]
    if newer:
        # This release's functions are older than the tables and would break them.
        _log.warning("migration.database_newer", unknown=newer)
        return ()

    folders = _sql_folders()
    for folder in folders:
        await connection.execute(_text(folder / "roles.sql"))
    await connection.execute(_text(folders[0] / "ownership.sql"))
    await connection.execute("SET LOCAL ROLE nightshift_owner")
    await connection.execute(_LEDGER)
    waiting = {one.name for one in states if one.state == "waiting"}
    migrations = [one for one in known_migrations() if one.name in waiting]
    for one in migrations:
        await connection.execute(one.sql)
        await connection.execute(
            "INSERT INTO nightshift.migrations (name, checksum) VALUES ($1, $2)", one.name, one.checksum
        )
        _log.info("migration.applied", migration=one.name)
    await _replace_functions(connection, folders)
    await _sync_types(connection)
    return tuple(one.name for one in migrations)


async def _replace_functions(connection: asyncpg.Connection, folders: Sequence[Traversable]) -> None:
    # A function may call another that is created later.
    await connection.execute("SET LOCAL check_function_bodies = off")
    for folder in folders:
        for entry in _sql_files(folder / "functions"):
            await connection.execute(_text(entry))
    await connection.execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA nightshift FROM PUBLIC")
    for folder in folders:
        await connection.execute(_text(folder / "access.sql"))


async def _sync_types(connection: asyncpg.Connection) -> None:
    """Insert or update the rows of all event types of this release. Rows of types that only a newer release has stay
    unchanged.
    """
    types: list[type[Event]] = [one for one in CATALOGUE.newest.values() if one.owner is not Owner.OUTSIDE]
    await connection.execute(
        _SYNC_TYPES,
        [one.type for one in types],
        [role_of(one.owner) for one in types],
        [one.terminal for one in types],
        [one.after_close for one in types],
    )


def role_of(owner: Owner) -> str:
    """Return the database role of the service that owns an event type."""
    return f"nightshift_{owner.value.replace('-', '_')}"


def _compare(
    known: tuple[Migration, ...], applied: dict[str, tuple[str, datetime]]
) -> tuple[MigrationState, ...]:
    states = []
    for one in known:
        checksum, at = applied.get(one.name, (None, None))
        if checksum is None:
            states.append(MigrationState(one.name, "waiting", None))
        else:
            states.append(MigrationState(one.name, "applied" if checksum == one.checksum else "changed", at))
    names = {migration.name for migration in known}
    states += [MigrationState(name, "unknown", at) for name, (_, at) in applied.items() if name not in names]
    return tuple(sorted(states, key=lambda one: one.name))


async def _applied(connection: asyncpg.Connection) -> dict[str, tuple[str, datetime]]:
    if not await connection.fetchval("SELECT to_regclass('nightshift.migrations') IS NOT NULL"):
        return {}
    rows = await connection.fetch("SELECT name, checksum, applied_at FROM nightshift.migrations")
    return {row["name"]: (row["checksum"], row["applied_at"]) for row in rows}


def _sql_files(folder: Traversable) -> list[Traversable]:
    """Return the SQL files of a folder, sorted by name. Returns an empty list when the folder does not exist."""
    if not folder.is_dir():
        return []
    return sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda e: e.name)


def _text(file: Traversable) -> str:
    return file.read_text(encoding="utf-8")


@contextlib.asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await open_connection(dsn, "nightshift-migrate")
    try:
        yield connection
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if not connection.is_closed():
            raise
        raise Unavailable(
            f"PostgreSQL: the connection broke: {str(error) or type(error).__name__}",
            hint="nothing was changed; run it again when the server answers",
        ) from error
    finally:
        await connection.close()
