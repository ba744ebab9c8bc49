"""Prepares PostgreSQL for the services: creates the event log's database and its schema.

The database client is imported in the functions, while the servers start, because the import takes half a second.
"""

from nightshift.devstack.parts.postgres import DATABASE, PostgresAddress


async def create_database(server: PostgresAddress) -> None:
    """Create the event log's database unless it exists."""
    import asyncpg  # noqa: PLC0415 - see above

    connection = await asyncpg.connect(server.admin_dsn)
    try:
        known = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE)
        if known is None:
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
    finally:
        await connection.close()


async def migrate_log(dsn: str) -> None:
    """Migrate the event log to this release, as `nightshift db migrate` does."""
    from nightshift.eventlog.migrate import migrate  # noqa: PLC0415 - see above

    await migrate(dsn)
