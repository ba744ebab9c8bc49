"""Reads builds from the event log with a database role that may only read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from pathlib import Path
from time import monotonic

from nightshift.cli.build_status import BuildStatus, evolve
from nightshift.cli.connect import settings_for
from nightshift.contracts.events.account import AccountPolicyChanged
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.database import Database, PgConfig
from nightshift.eventlog.errors import NotFound, Unavailable
from nightshift.eventlog.port import RecordedEvent, account_stream, build_stream
from nightshift.eventlog.postgres import PostgresEventLog, log_database
from nightshift.eventlog.settings import PostgresSettings

#: Seconds between two reads of a build that is followed.
_LOOK = 0.1
_QUEUE = """
SELECT build_id, account_id,
    row_number() OVER (ORDER BY place, opened_at, build_id) AS position,
    row_number() OVER (PARTITION BY account_id ORDER BY place) AS of_account
FROM nightshift.build_queue(2147483647) WHERE queued AND place > 0"""
_RECENT = "SELECT stream_id FROM nightshift.recent_builds($1, NULL)"
_ACCEPTED = "SELECT stream_id, accepted_at FROM nightshift.recent_builds($1, $2)"


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """The place of a queued build: `position` among all queued builds, and `of_account` among those of its account.

    The build with the position 1 starts next.
    """

    account_id: str
    position: int
    of_account: int


class Builds:
    """Queries about the builds and accounts of an installation."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._log = PostgresEventLog(database, actor="cli", notify=False)

    async def events(self, build_id: str, *, after: int = 0) -> list[RecordedEvent]:
        """Returns the events of a build after the version `after`. Raises NotFound when the build does not exist."""
        found = await self._read(build_id, after)
        if not found and not after:
            raise NotFound(f"there is no build {build_id}", hint="`nightshift builds` lists them")
        return found

    async def status(self, build_id: str) -> BuildStatus:
        """Returns the status of a build. Raises NotFound when it does not exist."""
        return reduce(evolve, await self.events(build_id), BuildStatus(build_id))

    async def recent(self, limit: int) -> list[BuildStatus]:
        """Returns the status of the newest builds, newest first."""
        rows = await self._database.fetch(_RECENT, limit)
        return [await self.status(row["stream_id"].removeprefix("build-")) for row in rows]

    async def all_ids(self) -> list[str]:
        """Returns the ids of all builds, newest first."""
        rows = await self._database.fetch(_RECENT, 2**31 - 1)
        return [row["stream_id"].removeprefix("build-") for row in rows]

    async def unfinished_ids(self) -> list[str]:
        """Returns the ids of all builds that have not ended, sorted."""
        found: list[str] = []
        while items := await self._log.pending(PendingKind.BUILD, after_key=found[-1] if found else ""):
            found += [item.key for item in items]
        return found

    async def queue(self) -> dict[str, QueuePlace]:
        """Returns build id → place in the queue, for builds that are accepted and not started."""
        rows = await self._database.fetch(_QUEUE)
        return {row["build_id"]: QueuePlace(*row[1:]) for row in rows}

    async def accepted(self) -> set[str]:
        """Returns the ids of all builds that were ever accepted."""
        found, before, page = set[str](), None, 1000
        while True:
            rows = await self._database.fetch(_ACCEPTED, page, before)
            new = {row["stream_id"].removeprefix("build-") for row in rows} - found
            found |= new
            if len(rows) < page or not new:
                return found
            # Includes the last time again, because other builds may have been accepted in the same microsecond.
            before = rows[-1]["accepted_at"] + timedelta(microseconds=1)

    async def asking(self) -> list[BuildStatus]:
        """Returns the status of every build that has an open question or approval."""
        items = [
            *await self._log.pending(PendingKind.QUESTION),
            *await self._log.pending(PendingKind.APPROVAL),
        ]
        builds = dict.fromkeys(item.stream_id.removeprefix("build-") for item in items)
        return [await self.status(build_id) for build_id in builds]

    async def has_build(self, build_id: str) -> bool:
        """Returns whether the log has an event of this build."""
        return await self._has(build_stream(build_id))

    async def has_account(self, account_id: str) -> bool:
        """Returns whether the log has an event of this account."""
        return await self._has(account_stream(account_id))

    async def account_policy(self, account_id: str) -> AccountPolicyChanged | None:
        """Returns the newest policy of an account. Returns None when none was ever set."""
        async for event in self._log.read_stream(account_stream(account_id), backwards=True):
            if isinstance(event.data, AccountPolicyChanged):
                return event.data
        return None

    async def follow(self, build_id: str, *, patience: float = 0.0) -> AsyncIterator[list[RecordedEvent]]:
        """Yields the events of a build in batches, from the first event on. An empty batch means that nothing is new.

        Never ends by itself. Raises Unavailable when the log has no event of the build within `patience` seconds.
        """
        after, deadline = 0, monotonic() + patience
        while True:
            found = await self._read(build_id, after)
            if found:
                after = found[-1].version
            elif not after and monotonic() >= deadline:
                raise Unavailable(
                    f"{build_id} was requested, but is not in the log after {patience:g} s",
                    hint="is the orchestrator running (`nightshift ps`)? `nightshift dlq list` shows what was refused",
                )
            yield found
            if not found:
                await asyncio.sleep(_LOOK)

    async def _read(self, build_id: str, after: int) -> list[RecordedEvent]:
        events = self._log.read_stream(build_stream(build_id), from_version=after + 1)
        return [event async for event in events]

    async def _has(self, stream_id: str) -> bool:
        return bool([event async for event in self._log.read_stream(stream_id, limit=1)])


@contextlib.asynccontextmanager
async def open_builds(home: Path) -> AsyncIterator[Builds]:
    """Opens the queries on an installation. Raises ConfigurationError and Unavailable."""
    async with open_database(home) as database:
        yield Builds(database)


@contextlib.asynccontextmanager
async def open_database(home: Path, *, role: str = "nightshift_reader") -> AsyncIterator[Database]:
    """Opens the database of an installation, by default with the role that may only read.

    Raises ConfigurationError and Unavailable.
    """
    dsn = settings_for(PostgresSettings, home, role=role).postgres_dsn.get_secret_value()
    config = PgConfig(dsn=dsn, application_name="nightshift-cli", max_connections=2, patience=5.0)
    database = log_database(config)
    try:
        yield database
    finally:
        await database.close()
