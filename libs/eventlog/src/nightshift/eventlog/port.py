"""The log as its users see it. The PostgreSQL adapter and the in-memory one pass the same conformance suite."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from nightshift.contracts.model import Event, PendingKind

#: How many shards the log has. Within one, position order is commit order.
SHARDS = 64


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append. Its id is derived from `causation_id`, its type and `index`, never drawn.

    `index` tells apart events of one type with one cause: 0, 1, 2… in the order decided.
    """

    data: Event
    causation_id: UUID
    index: int = 0
    correlation_id: str | None = None  # none: the build or account id
    actor: str | None = None  # none: the writer's own name, such as `orchestrator/7f3a`
    traceparent: str | None = None


class RecordedEvent(NamedTuple):
    """An event as the log (or a message of the bus) tells it. `data` is validated and of the newest version.

    A tuple, because a log is read by the hundred thousand: a frozen dataclass takes four times as long to make.
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

    @property
    def subject(self) -> str:
        """The build or account id: the stream's name without its prefix."""
        return self.stream_id.partition("-")[2]


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it stands, data undecoded: what the relay moves. Within a shard `position` order is commit order."""

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
    """One stream's part of an append. `expected_version` none: any. 0: the stream must not exist yet."""

    stream_id: str
    events: Sequence[NewEvent]
    expected_version: int | None = None


class Appended(NamedTuple):
    """What is in the log now for the events of one append, in their order; also when all of it was there before.

    `version` is the stream's head after the append. `fresh` is false when nothing was written.
    """

    stream_id: str
    version: int
    versions: tuple[int, ...]
    event_ids: tuple[UUID, ...]
    fresh: bool


@dataclass(frozen=True, slots=True)
class PendingItem:
    """Something that waits: opened by the event at (`stream_id`, `version`)."""

    kind: PendingKind
    key: str
    stream_id: str
    version: int
    opened_at: datetime
    due_at: datetime | None


StaleReason = Literal["build_ended", "build_awake", "overdue"]


@dataclass(frozen=True, slots=True)
class StalePending:
    """A pending row that outlived its purpose. `reason` says by which rule; see `EventLog.stale_pending`."""

    kind: PendingKind
    key: str
    stream_id: str
    opened_at: datetime
    due_at: datetime | None
    reason: StaleReason


#: How long a row of each kind may wait after it was due, or after it was opened when it has no due time. A kind that is
#: missing here may wait for ever.
PENDING_ALLOWED: Mapping[PendingKind, timedelta] = MappingProxyType(
    {
        PendingKind.TOOL_CALL: timedelta(days=1),
        PendingKind.SNAPSHOT: timedelta(hours=1),
        PendingKind.BUDGET_REQUEST: timedelta(minutes=5),
        PendingKind.RESERVATION: timedelta(minutes=10),
        PendingKind.SLEEPER: timedelta(days=2),
        PendingKind.WAKE: timedelta(minutes=10),
    }
)


class EventLog(Protocol):
    """Append-only. Every call may raise `Unavailable`; after it an append may have been committed: send it again."""

    async def append(
        self, stream_id: str, events: Sequence[NewEvent], *, expected_version: int | None = None
    ) -> Appended:
        """Append to one stream, atomically.

        The same derived ids with the same content return what is there. Raises VersionConflict, EventIdReused,
        ForeignEventType, StreamClosed.
        """
        ...

    async def append_all(self, appends: Sequence[Append]) -> tuple[Appended, ...]:
        """Append to several streams in one transaction: all of it or none."""
        ...

    def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """The stream's events in version order (or backwards), both bounds inclusive; none if nobody wrote it."""
        ...

    async def read_shards(self, cursors: Mapping[int, int], *, limit: int) -> Sequence[Row]:
        """Read many shards in one round trip: for each shard, up to `limit` rows after its position.

        Rows of a shard are in commit order, and none is missing. The shards come in the order of `cursors`.
        """
        ...

    async def read_open_streams(
        self, shards: Sequence[int], *, after: tuple[str, int] = ("", 0), limit: int
    ) -> Sequence[Row]:
        """Rows of these shards' unfinished streams: not closed, or closed with something pending.

        By stream and version, from just after (stream, version) `after`: the last row of the page before.
        """
        ...

    async def pending(
        self, kind: PendingKind, *, due_before: datetime | None = None, limit: int = 1000, after_key: str = ""
    ) -> Sequence[PendingItem]:
        """What of this kind is open, by key; with `due_before` only what is due by then, soonest first."""
        ...

    async def stale_pending(self, *, grace_s: float = 600.0, limit: int = 100) -> Sequence[StalePending]:
        """Return the pending rows that outlived their purpose, oldest first. A healthy log has none.

        `build_ended`: the stream was closed `grace_s` seconds ago. The completion snapshot may stay longer, and so may
        the sandbox while that snapshot is pending. `build_awake`: a pre-sleep snapshot, `grace_s` seconds old, of a
        build that neither sleeps nor is about to wake. `overdue`: the row is older than PENDING_ALLOWED.
        """
        ...


def build_stream(build_id: str) -> str:
    """The stream of a build."""
    return f"build-{build_id}"


def account_stream(account_id: str) -> str:
    """The stream of an account's money."""
    return f"account-{account_id}"
