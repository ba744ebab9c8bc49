"""The orchestrator's queries: calls of its functions in `sql/functions`."""

from collections.abc import Sequence

from nightshift.eventlog.database import Database


class PostgresBuildNumbers:
    """Implements the port BuildNumbers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def number(self, project_id: str, build_id: str) -> int:
        """Return the number of this build in its project: 1, 2, 3… The same build gets the same number again."""
        rows = await self._database.fetch(
            "SELECT nightshift.next_build_version($1, $2)", project_id, build_id
        )
        return int(rows[0][0])


class PostgresUnownedBuilds:
    """Implements the port UnownedBuilds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def unowned(self, *, limit: int) -> Sequence[str]:
        """Return the ids of builds that have not ended, do not sleep and have no live lease, oldest first.

        A build that waits for a person or a provider is among them only when its wait is due.
        """
        rows = await self._database.fetch("SELECT * FROM nightshift.unowned_builds($1)", limit)
        return [row[0] for row in rows]
