"""Detects a PostgreSQL pooler that pools by transaction. The relay's session locks do not work through one."""

import asyncpg

from nightshift.eventlog.errors import ConfigurationError


async def refuse_pooler(first: asyncpg.Connection, second: asyncpg.Connection) -> None:
    """Raise ConfigurationError when these connections go through a pooler that pools by transaction.

    Such a pooler can be seen in two cases. It serves both connections by one server process, or it moves `first` to
    another server process while `second` is in a transaction.
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
