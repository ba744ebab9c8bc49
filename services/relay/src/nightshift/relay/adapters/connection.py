"""The relay's own connections to PostgreSQL: one server session each, for its whole life."""

import asyncpg

from nightshift.eventlog.errors import ConfigurationError, Unavailable

#: Errors after which a connection is not used again.
BROKEN = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
NOT_ALLOWED = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)


async def connect(dsn: str, name: str) -> asyncpg.Connection:
    """Open a connection to the primary. `name` is its application_name. Raises Unavailable, ConfigurationError."""
    try:
        return await asyncpg.connect(
            dsn, timeout=5, target_session_attrs="primary", server_settings={"application_name": name[:63]}
        )
    except NOT_ALLOWED as error:
        raise misconfigured(error) from error
    except (*BROKEN, asyncpg.exceptions.TargetServerAttributeNotMatched) as error:
        raise Unavailable(f"PostgreSQL: {one_line(error)}") from error


def misconfigured(error: Exception) -> ConfigurationError:
    """Return the error for a wrong address, database or role."""
    return ConfigurationError(f"PostgreSQL: {error}", hint="check NIGHTSHIFT_POSTGRES_DSN and its role")


async def refuse_pooler(first: asyncpg.Connection, second: asyncpg.Connection) -> None:
    """Raise ConfigurationError when the connections go through a pooler that pools by transaction.

    While `second` is in a transaction, such a pooler either gives `first` another server process than before, or had
    given `second` the process of `first`.
    """
    before = await _server_process(first)
    async with second.transaction():
        other = await _server_process(second)
        after = await _server_process(first)
    if before != after or other == before:
        raise ConfigurationError(
            "the relay reaches PostgreSQL through a pooler that pools by transaction: its session locks would be "
            "lost or left behind, and two relays would lead at once",
            hint="give NIGHTSHIFT_POSTGRES_DSN of the relay the address of the server itself, or of a session pool",
        )


async def _server_process(connection: asyncpg.Connection) -> int:
    async with connection.transaction():
        return int(await connection.fetchval("SELECT pg_backend_pid()"))


def one_line(error: BaseException) -> str:
    """Return the error's text on one line, or its class name when it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
