"""Refuses a PostgreSQL pooler that pools by transaction: session locks would be lost or left behind."""

import asyncpg

from nightshift.eventlog.errors import ConfigurationError


async def refuse_pooler(first: asyncpg.Connection, second: asyncpg.Connection) -> None:
    """Raise ConfigurationError when the connections go through a pooler that pools by transaction.

    Such a pooler gives `first` another server process while `second` is in a transaction, or both the same one.
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
