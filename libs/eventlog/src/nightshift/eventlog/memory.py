"""An in-memory event log for tests and simulation."""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from nightshift.contracts.model import OPENS_ONLY_WITH, Event, Owner, PendingKind
from nightshift.contracts.registry import CATALOGUE
from nightshift.eventlog.errors import (
    EventIdReused,
    ForeignEventType,
    Refused,
    StreamClosed,
    VersionConflict,
)
from nightshift.eventlog.port import (
    PENDING_ALLOWED,
    SHARDS,
    Append,
    Appended,
    NewEvent,
    PendingItem,
    RecordedEvent,
    Row,
    StalePending,
    StaleReason,
    shard_of,
)
from nightshift.eventlog.prepare import PendingChange, Prepared, pending_changes, prepare, recorded
from nightshift.eventlog.wire import Wire, called

_utc_now = partial(datetime.now, UTC)
_NAME = re.compile(r"(build|account)-[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(slots=True)
class _Stream:
    shard: int
    rows: list[Row] = field(default_factory=list)
    closed_at: datetime | None = None


@dataclass(slots=True)
class MemoryTables:
    """The tables of the log in memory. Several MemoryEventLogs on one instance act like several services on one
    database.
    """

    streams: dict[str, _Stream] = field(default_factory=dict)
    shards: dict[int, list[Row]] = field(default_factory=lambda: {shard: [] for shard in range(SHARDS)})
    by_id: dict[UUID, Row] = field(default_factory=dict)
    pending: dict[tuple[PendingKind, str, str], PendingItem] = field(default_factory=dict)
    position: int = 0

    def copy(self) -> "MemoryTables":
        """Return a copy of the tables. To roll back a failed transaction, pass the copy to `restore`."""
        return MemoryTables(
            {name: replace(one, rows=list(one.rows)) for name, one in self.streams.items()},
            {shard: list(rows) for shard, rows in self.shards.items()},
            dict(self.by_id),
            dict(self.pending),
            self.position,
        )

    def restore(self, before: "MemoryTables") -> None:
        """Replace the tables by those of `before`, a copy made by `copy`."""
        self.streams, self.shards = before.streams, before.shards
        self.by_id, self.pending, self.position = before.by_id, before.pending, before.position


class MemoryEventLog:
    """The EventLog port in memory. `owner` limits the event types that it may append; None allows every type.

    If `wire` is given, a simulated network delays and loses its calls.
    """

    def __init__(
        self,
        tables: MemoryTables | None = None,
        *,
        actor: str = "memory",
        owner: Owner | None = None,
        wire: Wire | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.tables = MemoryTables() if tables is None else tables
        self._actor = actor
        self._owner = owner
        self._wire = wire
        self._now = now

    async def append(
        self, stream_id: str, events: Sequence[NewEvent], *, expected_version: int | None = None
    ) -> Appended:
        return (await self.append_all([Append(stream_id, events, expected_version)]))[0]

    async def append_all(self, appends: Sequence[Append]) -> tuple[Appended, ...]:
        prepared = [prepare(one.stream_id, one.events, actor=self._actor) for one in appends]
        changes = [pending_changes(one.stream_id, one.events) for one in appends]

        def transaction() -> tuple[Appended, ...]:
            before = self.tables.copy() if len(appends) > 1 else None
            try:
                return tuple(map(self._append, appends, prepared, changes))
            except Refused:
                if before is not None:
                    self.tables.restore(before)
                raise

        return await called(self._wire, "log.append", transaction)

    async def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        def read() -> list[Row]:
            stream = self.tables.streams.get(stream_id)
            rows = [] if stream is None else stream.rows[max(from_version, 1) - 1 : to_version]
            return (rows[::-1] if backwards else rows)[:limit]

        for row in await called(self._wire, "log.read_stream", read):
            yield recorded(row)

    async def read_shards(self, cursors: Mapping[int, int], *, limit: int) -> Sequence[Row]:
        def read() -> list[Row]:
            found: list[Row] = []
            for shard, after in cursors.items():
                found += [row for row in self.tables.shards[shard] if row.position > after][:limit]
            return found

        return await called(self._wire, "log.read_shards", read)

    async def read_open_streams(
        self, shards: Sequence[int], *, after: tuple[str, int] = ("", 0), limit: int
    ) -> Sequence[Row]:
        def read() -> list[Row]:
            waiting = {item.stream_id for item in self.tables.pending.values()}
            rows: list[Row] = []
            for name, stream in sorted(self.tables.streams.items()):
                if stream.shard in shards and (stream.closed_at is None or name in waiting):
                    rows += [row for row in stream.rows if (row.stream_id, row.version) > after]
            return rows[:limit]

        return await called(self._wire, "log.read_open_streams", read)

    async def pending(
        self,
        kind: PendingKind,
        *,
        due_before: datetime | None = None,
        limit: int = 1000,
        after_key: str = "",
        after_due: datetime | None = None,
    ) -> Sequence[PendingItem]:
        def read() -> list[PendingItem]:
            items = [item for item in self.tables.pending.values() if item.kind is kind]
            if due_before is None:
                items = [item for item in items if item.key > after_key]
                return sorted(items, key=lambda item: (item.key, item.stream_id))[:limit]
            due = [
                (item.due_at, item.key, item) for item in items if item.due_at and item.due_at <= due_before
            ]
            if after_due is not None:
                due = [one for one in due if one[:2] > (after_due, after_key)]
            return [item for *_, item in sorted(due, key=lambda one: one[:2])][:limit]

        return await called(self._wire, "log.pending", read)

    async def stale_pending(self, *, grace_s: float = 600.0, limit: int = 100) -> Sequence[StalePending]:
        now, grace = self._now(), timedelta(seconds=grace_s)

        def read() -> list[StalePending]:
            items = sorted(
                self.tables.pending.values(), key=lambda item: (item.opened_at, item.kind, item.key)
            )
            judged = ((item, self._outlived(item, now, grace)) for item in items)
            return [
                StalePending(item.kind, item.key, item.stream_id, item.opened_at, item.due_at, reason)
                for item, reason in judged
                if reason is not None
            ][:limit]

        return await called(self._wire, "log.stale_pending", read)

    def _outlived(self, item: PendingItem, now: datetime, grace: timedelta) -> StaleReason | None:
        """Return why a pending row should be closed by now, or None when it may stay. The SQL function stale_pending
        has the same rules.
        """
        closed_at = self.tables.streams[item.stream_id].closed_at
        others = {
            (one.kind, one.key) for one in self.tables.pending.values() if one.stream_id == item.stream_id
        }
        snapshots = {
            key for kind, key in others if kind is PendingKind.SNAPSHOT and key.endswith("/completion")
        }
        ready = any(row.type == "build.ready" for row in self.tables.streams[item.stream_id].rows)
        stays = item.key in snapshots or (item.kind is PendingKind.SANDBOX and (ready or bool(snapshots)))
        if closed_at is not None and closed_at <= now - grace and not stays:
            return "build_ended"
        before_sleep = item.kind is PendingKind.SNAPSHOT and item.key.endswith("/pre_sleep")
        asleep = {PendingKind.SLEEPER, PendingKind.WAKE} & {kind for kind, _ in others}
        if before_sleep and not asleep and item.opened_at <= now - grace:
            return "build_awake"
        allowed = PENDING_ALLOWED.get(item.kind)
        late = allowed is not None and (item.due_at or item.opened_at) <= now - allowed
        return "overdue" if late else None

    def _append(
        self, append: Append, prepared: Sequence[Prepared], changes: Sequence[PendingChange]
    ) -> Appended:
        """Append by the same rules, in the same order, as the SQL function append_events."""
        name = append.stream_id
        models = [self._owned(one.type) for one in prepared]
        known = self.tables.streams.get(name)
        head = 0 if known is None else len(known.rows)
        closed = known is not None and known.closed_at is not None
        there = [self.tables.by_id[one.event_id] for one in prepared if one.event_id in self.tables.by_id]
        if there:
            return _again(name, prepared, there)
        if closed and not all(model.after_close for model in models):
            raise StreamClosed(f"stream {name} is closed")
        if append.expected_version not in (None, head):
            raise VersionConflict(f"stream {name} is at version {head}, not at {append.expected_version}")
        ends = [place for place, model in enumerate(models) if model.terminal]
        if ends and any(not model.after_close for model in models[ends[0] + 1 :]):
            raise StreamClosed(f"stream {name} goes on after its end")
        if known is None:
            if not _NAME.fullmatch(name) or len(name) > 136:
                raise Refused(f"{name!r} does not name a stream")
            known = self.tables.streams[name] = _Stream(shard_of(name))
        now = self._now()
        if ends and known.closed_at is None:
            known.closed_at = now
        for event in prepared:
            self.tables.position += 1
            row = Row(known.shard, self.tables.position, name, len(known.rows) + 1, *event, now)
            known.rows.append(row)
            self.tables.shards[known.shard].append(row)
            self.tables.by_id[event.event_id] = row
        self._change_pending(name, head, now, changes)
        versions = tuple(range(head + 1, head + len(prepared) + 1))
        return Appended(name, versions[-1], versions, tuple(one.event_id for one in prepared), fresh=True)

    def _owned(self, type_: str) -> type[Event]:
        model = CATALOGUE.newest[type_]
        if model.owner is Owner.OUTSIDE or self._owner not in (None, model.owner):
            raise ForeignEventType(f"{self._owner or 'nobody'} does not own {type_}")
        return model

    def _change_pending(self, name: str, head: int, now: datetime, changes: Sequence[PendingChange]) -> None:
        pending = self.tables.pending
        for one in sorted(changes, key=lambda one: one.change.kind in OPENS_ONLY_WITH):
            place = (one.change.kind, one.change.key, name)
            if one.event is not None:
                needs = OPENS_ONLY_WITH.get(one.change.kind)
                if needs is None or any((kind, of) == (needs, name) for kind, _, of in pending):
                    pending[place] = PendingItem(
                        one.change.kind, one.change.key, name, head + one.event, now, one.change.due_at
                    )
                continue
            item, through = pending.get(place), one.change.through_version
            if item is not None and (through is None or item.version <= through):
                del pending[place]


def _again(name: str, prepared: Sequence[Prepared], there: Sequence[Row]) -> Appended:
    """Return the result of an append that is repeated: its event ids are in the log already, as the rows `there`.

    Raises EventIdReused when these rows have other content than the events of the append.
    """
    same = [(row.stream_id, row.event_id, row.type, row.schema_version, row.data) for row in there] == [
        (name, one.event_id, one.type, one.schema_version, one.data) for one in prepared
    ]
    if not same:
        raise EventIdReused(
            f"stream {name}: {len(there)} of {len(prepared)} ids are in the log, or say something else"
        )
    versions = tuple(row.version for row in there)
    return Appended(name, max(versions), versions, tuple(one.event_id for one in prepared), fresh=False)
