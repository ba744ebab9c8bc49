"""The orchestrator's queries, which call its functions in `sql/functions`."""

from collections.abc import Sequence

from nightshift.eventlog.database import Database


class PostgresBuildNumbers:
    """The port BuildNumbers over PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def number(self, project_id: str, build_id: str) -> int:
        """Return the number of this build in its project: 1, 2, 3… Another call for the same build returns the same
        number.
        """
        rows = await self._database.fetch(
            "SELECT nightshift.next_build_version($1, $2)", project_id, build_id
        )
        return int(rows[0][0])


class PostgresProjects:
    """The port Projects over PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, project_id: str, account_id: str) -> str:
        """Return the account of the project. A project without an account belongs to `account_id` from now on."""
        rows = await self._database.fetch("SELECT nightshift.claim_project($1, $2)", project_id, account_id)
        return str(rows[0][0])


class PostgresUnownedBuilds:
    """The port UnownedBuilds over PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def unowned(self, *, limit: int, per_account: int) -> Sequence[str]:
        """Return up to `limit` ids of builds that an orchestrator should run now and that have no live lease.

        The builds that have started come first. Then come queued builds, those of the accounts with the fewest active
        builds first. A queued build is left out when its account has `per_account` active builds, or as many as its
        policy allows.
        """
        rows = await self._database.fetch(
            "SELECT * FROM nightshift.unowned_builds($1, $2)", limit, per_account
        )
        return [row[0] for row in rows]

    async def waiting_for_provider(self, *, limit: int) -> Sequence[str]:
        """Return up to `limit` ids of builds that wait for the provider and have no live lease, the longest waiting
        first.
        """
        rows = await self._database.fetch("SELECT * FROM nightshift.builds_waiting_for_provider($1)", limit)
        return [row[0] for row in rows]
