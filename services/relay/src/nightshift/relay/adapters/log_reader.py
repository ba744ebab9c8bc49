"""Reads the event log for the relay, on pooled connections."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from nightshift.eventlog.database import Database
from nightshift.eventlog.port import Row
from nightshift.eventlog.postgres import PostgresEventLog

_READ = "SELECT * FROM nightshift.relay_read($1, $2, $3, $4)"
_KNOWN = "SELECT event_id, stream_id, version FROM nightshift.relay_known($1)"
_LAG = "SELECT events, seconds FROM nightshift.relay_lag($1)"


class PostgresLogReader:
    """The LogReader port on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._events = PostgresEventLog(database, actor="relay", notify=False)

    async def read(self, cursors: Mapping[int, int], *, max_events: int, max_bytes: int) -> Sequence[Row]:
        rows = await self._database.fetch(_READ, list(cursors), list(cursors.values()), max_events, max_bytes)
        return [Row(*row) for row in rows]

    async def read_unfinished(
        self, shards: Sequence[int], *, after: tuple[str, int], limit: int
    ) -> Sequence[Row]:
        return await self._events.read_open_streams(shards, after=after, limit=limit)

    async def known(self, event_ids: Sequence[UUID]) -> Mapping[UUID, tuple[str, int]]:
        rows = await self._database.fetch(_KNOWN, event_ids)
        return {row[0]: (row[1].partition("-")[2], row[2]) for row in rows}

    async def lag(self, shards: Sequence[int]) -> tuple[int, float]:
        row = (await self._database.fetch(_LAG, list(shards)))[0]
        return int(row[0]), float(row[1])
