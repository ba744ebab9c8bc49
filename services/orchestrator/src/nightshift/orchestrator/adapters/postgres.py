"""The orchestrator's own questions to the database: calls of functions in the log's `sql/functions`."""

from collections.abc import Sequence

from nightshift.eventlog.database import Database


class PostgresBuildNumbers:
    """See the port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def number(self, project_id: str, build_id: str) -> int:
        """See the port."""
        rows = await self._database.fetch(
            "SELECT nightshift.next_build_version($1, $2)", project_id, build_id
        )
        return int(rows[0][0])


class PostgresUnownedBuilds:
    """See the port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def unowned(self, *, limit: int) -> Sequence[str]:
        """See the port."""
        rows = await self._database.fetch("SELECT * FROM nightshift.unowned_builds($1)", limit)
        return [row[0] for row in rows]
