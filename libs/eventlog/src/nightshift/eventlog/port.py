"""The port of the event log. The PostgreSQL adapter and the in-memory one pass the same conformance suite."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from nightshift.contracts.model import Event, PendingKind

#: The number of shards of the log. Within a shard, position order is commit order.
SHARDS = 64


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append. Its id is derived from `causation_id` (the id of its cause), the event type and `index`.

    `index` distinguishes events of one type that have the same cause: 0, 1, 2… in the order in which they were
    decided.
    """

    data: Event
    causation_id: UUID
    index: int = 0
    correlation_id: str | None = None  # None: the build or account id
    actor: str | None = None  # None: the name of the appending process, such as `orchestrator/7f3a`
    traceparent: str | None = None


class RecordedEvent(NamedTuple):
    """An event as read from the log or from a message, upcast to the newest schema version.

    It is a tuple because long logs are read: creating one takes a quarter of the time of a frozen dataclass.
    """

    event_id: UUID
    stream_id: str
    version: int
    data: Event
    correlation_id: str
    causation_id: UUID
    actor: str
    traceparent: str | None
    recorded_at: datetime
    principal: str | None = None  # of a request: who asks, such as `account/acme`

    @property
    def subject(self) -> str:
        """The build or account id: the stream id without its prefix."""
        return self.stream_id.partition("-")[2]


class Row(NamedTuple):
    """A row of the event log as the relay publishes it. `data` is JSON text."""

    shard: int
    position: int
    stream_id: str
    version: int
    event_id: UUID
    type: str
    schema_version: int
    data: str
    correlation_id: str
    causation_id: UUID
    actor: str
    traceparent: str | None
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Append:
    """The events to append to one stream.

    `expected_version` is the version that the stream must have before the append. 0 means that the stream must not
    exist, and None allows any version.
    """

    stream_id: str
    events: Sequence[NewEvent]
    expected_version: int | None = None


class Appended(NamedTuple):
    """The result of an append to one stream: the versions and ids of the appended events, in order.

    `version` is the highest of these versions. `fresh` is False when the append was a repetition: the log had all its
    events already.
    """

    stream_id: str
    version: int
    versions: tuple[int, ...]
    event_ids: tuple[UUID, ...]
    fresh: bool


@dataclass(frozen=True, slots=True)
class PendingItem:
    """A pending row: work that an event at (`stream_id`, `version`) opened and no event has closed yet."""

    kind: PendingKind
    key: str
    stream_id: str
    version: int
    opened_at: datetime
    due_at: datetime | None


StaleReason = Literal["build_ended", "build_awake", "overdue"]


@dataclass(frozen=True, slots=True)
class StalePending:
    """A pending row that should have been closed before now. `reason` is explained at `EventLog.stale_pending`."""

    kind: PendingKind
    key: str
    stream_id: str
    opened_at: datetime
    due_at: datetime | None
    reason: StaleReason


#: How long a pending row of each kind may wait after its due time, or after it was opened when it has no due time.
#: Kinds not listed may wait without a limit: a build may sleep until its account has money or a person wakes it.
PENDING_ALLOWED: Mapping[PendingKind, timedelta] = MappingProxyType(
    {
        PendingKind.TOOL_CALL: timedelta(days=1),
        PendingKind.SNAPSHOT: timedelta(hours=1),
        PendingKind.BUDGET_REQUEST: timedelta(minutes=5),
        PendingKind.RESERVATION: timedelta(minutes=10),
        PendingKind.WAKE: timedelta(minutes=10),
    }
)


class EventLog(Protocol):
    """An append-only log of event streams. Every call may raise Unavailable.

    After Unavailable an append may have been committed or not. The caller repeats the append, which is harmless.
    """

    async def append(
        self, stream_id: str, events: Sequence[NewEvent], *, expected_version: int | None = None
    ) -> Appended:
        """Append the events to one stream, all or none.

        Repeating an append changes nothing and returns the first result. Raises VersionConflict, EventIdReused,
        ForeignEventType or StreamClosed.
        """

    async def append_all(self, appends: Sequence[Append]) -> tuple[Appended, ...]:
        """Append to several streams in one transaction, all or none. Raises the errors of `append`."""

    def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """Yield the events of a stream in version order. If `backwards`, in reverse order.

        `from_version` and `to_version` are the lowest and the highest version to read, both included. At most `limit`
        events are read; None means all.
        """

    async def read_shards(self, cursors: Mapping[int, int], *, limit: int) -> Sequence[Row]:
        """Return the events that follow a given position in each shard, in commit order without gaps.

        `cursors` maps each shard to the position of the last event that the caller has already read. Returns at most
        `limit` events for each shard.
        """

    async def read_open_streams(
        self, shards: Sequence[int], *, after: tuple[str, int] = ("", 0), limit: int
    ) -> Sequence[Row]:
        """Return the events of all streams in these shards that are open, or that are closed but have pending rows.

        They are sorted by stream and version, at most `limit` of them. To continue, pass the (stream, version) of the
        last one as `after`.
        """

    async def pending(
        self,
        kind: PendingKind,
        *,
        due_before: datetime | None = None,
        limit: int = 1000,
        after_key: str = "",
        after_due: datetime | None = None,
    ) -> Sequence[PendingItem]:
        """Return at most `limit` pending rows of one kind, sorted by key. To continue, pass the last key as
        `after_key`.

        If `due_before` is given, returns only rows that are due by then, sorted by due time and key. To continue, pass
        the due time and the key of the last row as `after_due` and `after_key`.
        """

    async def stale_pending(self, *, grace_s: float = 600.0, limit: int = 100) -> Sequence[StalePending]:
        """Return pending rows that should be closed by now, oldest first. A healthy log has none. The reasons:

        - `build_ended`: the stream closed more than `grace_s` seconds ago, and no completion snapshot needs the row.
        - `build_awake`: a snapshot before a sleep has waited for `grace_s` seconds, but the build neither sleeps nor
          wakes.
        - `overdue`: the row has waited longer than PENDING_ALLOWED permits for its kind.
        """


def build_stream(build_id: str) -> str:
    """Return the stream id of a build."""
    return f"build-{build_id}"


def account_stream(account_id: str) -> str:
    """Return the stream id of an account."""
    return f"account-{account_id}"


@lru_cache(maxsize=4096)
def shard_of(stream_id: str) -> int:
    """Return the shard of a stream, 0 to SHARDS - 1. The SQL function `shard_of` returns the same.

    The result never changes.
    """
    return sha256(stream_id.encode()).digest()[0] % SHARDS
