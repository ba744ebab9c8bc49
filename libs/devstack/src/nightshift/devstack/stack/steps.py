"""What must be done on a fresh PostgreSQL before a service may start: the log's database and schema.

Clients are imported when used, which is after the servers were started: half a second of a start.
"""

from nightshift.devstack.parts.postgres import DATABASE, PostgresAddress


async def create_database(server: PostgresAddress) -> None:
    """Make the log's database on a new cluster."""
    import asyncpg  # noqa: PLC0415 - see above

    connection = await asyncpg.connect(server.admin_dsn)
    try:
        known = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE)
        if known is None:
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
    finally:
        await connection.close()


async def migrate_log(dsn: str) -> None:
    """Bring the log's schema to this release: the work of `nightshift db migrate`."""
    from nightshift.eventlog.migrate import migrate  # noqa: PLC0415 - see above

    await migrate(dsn)
