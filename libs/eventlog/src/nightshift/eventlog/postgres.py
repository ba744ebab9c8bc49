"""The event log on PostgreSQL. Each call is one call of a function in `sql/functions`."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Self

from nightshift.contracts.model import PendingKind
from nightshift.eventlog.append_notification import AppendNotifier
from nightshift.eventlog.database import Database, PgConfig, Uuid
from nightshift.eventlog.errors import (
    EventIdReused,
    ForeignEventType,
    NightshiftError,
    Refused,
    StreamClosed,
    VersionConflict,
)
from nightshift.eventlog.port import (
    PENDING_ALLOWED,
    Append,
    Appended,
    NewEvent,
    PendingItem,
    RecordedEvent,
    Row,
    StalePending,
    shard_of,
)
from nightshift.eventlog.prepare import PendingChange, Prepared, pending_changes, prepare, recorded

#: SQLSTATE → the error to raise for it.
REFUSALS: Mapping[str, Callable[[str], NightshiftError]] = {
    "NS001": VersionConflict,
    "NS002": EventIdReused,
    "NS003": ForeignEventType,
    "NS004": StreamClosed,
    # Unique violation: the log has a later event of this batch, or another shard just committed the same event id.
    "23505": EventIdReused,
    # Check violation: a wrong stream name, version or fence, which stays wrong when it is repeated.
    "23514": Refused,
}

_APPEND_ONE = "SELECT nightshift.append_one($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_APPEND = """
SELECT shard, head, versions, fresh FROM nightshift.append_events(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15
)"""
_APPEND_MANY = """
SELECT shard, head, versions, fresh FROM nightshift.append_many(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17
)"""


def _select(columns: str, call: str) -> str:
    return " ".join(("SELECT", columns, "FROM", call))


_ROW = (
    "shard, position, stream_id, version, event_id, type, schema_version, data,"
    " correlation_id, causation_id, actor, traceparent, recorded_at"
)
_READ_SHARDS = _select(_ROW, "nightshift.read_shards($1, $2, $3)")
_READ_OPEN = _select(_ROW, "nightshift.read_open_streams($1, $2, $3, $4)")
_READ_STREAM = _select(_ROW, "nightshift.read_stream($1, $2, $3, $4)")
_READ_BACKWARDS = _select(_ROW, "nightshift.read_stream_backwards($1, $2, $3, $4)")
_PENDING = "kind, key, stream_id, version, opened_at, due_at"
_PENDING_BY_KEY = _select(_PENDING, "nightshift.pending_by_key($1, $2, $3)")
_STALE = _select(
    "kind, key, stream_id, opened_at, due_at, reason", "nightshift.stale_pending($1, $2, $3, $4)"
)
_PENDING_DUE = _select(_PENDING, "nightshift.pending_due($1, $2, $3)")
_PENDING_DUE_AFTER = _select(_PENDING, "nightshift.pending_due_after($1, $2, $3, $4, $5)")

_LAST_VERSION = 2**63 - 1

#: Called with the stream and the events of each append that was committed, once for each event.
Observer = Callable[[str, Sequence[NewEvent]], None]


class PostgresEventLog:
    """The EventLog port on PostgreSQL. `actor` is the name of the writer in events that do not name one."""

    def __init__(
        self,
        database: Database,
        *,
        actor: str,
        notify: bool = True,
        page: int = 1000,
        observe: Observer | None = None,
    ) -> None:
        """Create a log on a database from `log_database`.

        If `notify`, notifies the relay after each commit. `page` is the number of rows per read. `observe`, if given,
        is called with the stream id and the events after each commit.
        """
        self._database = database
        self._actor = actor
        self._observe = observe
        self._notifier = AppendNotifier(database) if notify else None
        #: Called with the shard after each committed append.
        self._notify: Callable[[int], None] = self._notifier.notify if self._notifier else _ignore
        self._page = page

    async def close(self) -> None:
        """Wait until the last notification to the relay is sent. The database stays open."""
        if self._notifier is not None:
            await self._notifier.close()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[tuple[Any, Self]]:
        """Yield a connection and an event log, whose writes belong to one transaction. Nothing in it is retried.

        At the end of the block, all writes are committed together. An error rolls them back.
        """
        shards: set[int] = set()
        appended: list[tuple[str, Sequence[NewEvent]]] = []
        async with self._database.connection() as connection, connection.transaction():
            within = type(self)(connection, actor=self._actor, notify=False, page=self._page)
            within._notify = shards.add
            within._observe = lambda stream_id, events: appended.append((stream_id, events))
            yield connection, within
        for shard in shards:
            self._notify(shard)
        if self._observe is not None:
            for stream_id, events in appended:
                self._observe(stream_id, events)

    async def append(
        self, stream_id: str, events: Sequence[NewEvent], *, expected_version: int | None = None
    ) -> Appended:
        prepared = prepare(stream_id, events, actor=self._actor, uuid=Uuid)
        changes = pending_changes(stream_id, events)
        if len(prepared) == 1 and not changes:
            appended = await self._append_one(stream_id, prepared[0], expected_version)
        else:
            arrays = *_batch_arrays(prepared), *_pending_arrays(changes)
            rows = await self._database.fetch(_APPEND, stream_id, expected_version, *arrays)
            appended = self._appended(stream_id, prepared, rows[0])
        if self._observe is not None and appended.fresh:
            self._observe(stream_id, events)
        return appended

    async def append_all(self, appends: Sequence[Append]) -> tuple[Appended, ...]:
        if not appends:
            return ()
        prepared = [prepare(one.stream_id, one.events, actor=self._actor, uuid=Uuid) for one in appends]
        changes = [pending_changes(one.stream_id, one.events) for one in appends]
        rows = await self._database.fetch(
            _APPEND_MANY,
            [one.stream_id for one in appends],
            [one.expected_version for one in appends],
            [len(one) for one in prepared],
            [len(one) for one in changes],
            *zip(*(event for one in prepared for event in one), strict=True),
            *_pending_arrays([change for one in changes for change in one]),
        )
        appended = tuple(
            self._appended(one.stream_id, events, row)
            for one, events, row in zip(appends, prepared, rows, strict=True)
        )
        if self._observe is not None:
            for one, done in zip(appends, appended, strict=True):
                if done.fresh:
                    self._observe(one.stream_id, one.events)
        return appended

    async def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        first, last = from_version, _LAST_VERSION if to_version is None else to_version
        query = _READ_BACKWARDS if backwards else _READ_STREAM
        left = _LAST_VERSION if limit is None else limit
        while left > 0:
            size = min(self._page, left)
            rows = await self._database.fetch(query, stream_id, first, last, size)
            for row in rows:
                yield recorded(Row(*row))
            if len(rows) < size:
                return
            if backwards:
                last = rows[-1]["version"] - 1
            else:
                first = rows[-1]["version"] + 1
            left -= size

    async def read_shards(self, cursors: Mapping[int, int], *, limit: int) -> Sequence[Row]:
        rows = await self._database.fetch(_READ_SHARDS, list(cursors), list(cursors.values()), limit)
        return [Row(*row) for row in rows]

    async def read_open_streams(
        self, shards: Sequence[int], *, after: tuple[str, int] = ("", 0), limit: int
    ) -> Sequence[Row]:
        rows = await self._database.fetch(_READ_OPEN, list(shards), *after, limit)
        return [Row(*row) for row in rows]

    async def pending(
        self,
        kind: PendingKind,
        *,
        due_before: datetime | None = None,
        limit: int = 1000,
        after_key: str = "",
        after_due: datetime | None = None,
    ) -> Sequence[PendingItem]:
        if due_before is None:
            rows = await self._database.fetch(_PENDING_BY_KEY, kind.value, after_key, limit)
        elif after_due is None:
            rows = await self._database.fetch(_PENDING_DUE, kind.value, due_before, limit)
        else:
            place = after_due, after_key
            rows = await self._database.fetch(_PENDING_DUE_AFTER, kind.value, due_before, *place, limit)
        return [PendingItem(PendingKind(row[0]), *row[1:]) for row in rows]

    async def stale_pending(self, *, grace_s: float = 600.0, limit: int = 100) -> Sequence[StalePending]:
        kinds = [kind.value for kind in PENDING_ALLOWED]
        rows = await self._database.fetch(
            _STALE, kinds, list(PENDING_ALLOWED.values()), timedelta(seconds=grace_s), limit
        )
        return [StalePending(PendingKind(row[0]), *row[1:]) for row in rows]

    async def _append_one(self, stream_id: str, event: Prepared, expected_version: int | None) -> Appended:
        shard = shard_of(stream_id)
        rows = await self._database.fetch(_APPEND_ONE, stream_id, shard, expected_version, *event)
        version = rows[0][0]
        if version < 0:  # negative: the log had the event before
            return Appended(stream_id, -version, (-version,), (event.event_id,), fresh=False)
        self._notify(shard)
        return Appended(stream_id, version, (version,), (event.event_id,), fresh=True)

    def _appended(self, stream_id: str, prepared: Sequence[Prepared], row: Any) -> Appended:
        shard, head, versions, fresh = row
        if fresh:
            versions = range(head - len(prepared) + 1, head + 1)
            self._notify(shard)
        event_ids = tuple([one.event_id for one in prepared])
        return Appended(stream_id, head, tuple(versions), event_ids, fresh)


def log_database(config: PgConfig) -> Database:
    """Return a database whose calls raise the event log's own errors, such as VersionConflict."""
    return Database(config, refusals=REFUSALS)


def _batch_arrays(events: Sequence[Prepared]) -> tuple[tuple[Any, ...], ...]:
    """Return the columns of these events as arrays, the parameters of the SQL function that appends them.

    When all events have the same value in a column, such as the actor, its array has only one element. The SQL function
    repeats that element.
    """
    ids, types, versions, data, correlations, causes, actors, traces = zip(*events, strict=True)
    return ids, types, versions, data, _once(correlations), causes, _once(actors), _once(traces)


def _once(column: tuple[Any, ...]) -> tuple[Any, ...]:
    return column[:1] if column.count(column[0]) == len(column) else column


def _pending_arrays(changes: Sequence[PendingChange]) -> tuple[list[Any], ...]:
    return (
        [one.change.kind.value for one in changes],
        [one.change.key for one in changes],
        [one.event for one in changes],
        [one.change.due_at for one in changes],
        [one.change.through_version for one in changes],
    )


def _ignore(shard: int) -> None:
    """Do nothing. A log that does not notify the relay calls this function in place of a notifier."""
