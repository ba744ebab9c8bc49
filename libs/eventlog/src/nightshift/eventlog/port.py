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
    """An event to append. Its id is derived from `causation_id`, its type and `index`.

    `index` distinguishes events of one type with one cause: 0, 1, 2… in the order of the decision.
    """

    data: Event
    causation_id: UUID
    index: int = 0
    correlation_id: str | None = None  # None: the build or account id
    actor: str | None = None  # None: the writer's own name, such as `orchestrator/7f3a`
    traceparent: str | None = None


class RecordedEvent(NamedTuple):
    """An event as the log or a message holds it, upcast to the newest schema version.

    A tuple, because a frozen dataclass takes four times as long to make, and logs are long.
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
    """A row of the log with undecoded data, as the relay publishes it."""

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
    """The events to append to one stream. `expected_version` None: any version. 0: the stream must not exist."""

    stream_id: str
    events: Sequence[NewEvent]
    expected_version: int | None = None


class Appended(NamedTuple):
    """The versions and ids of the events of one append, in order.

    `version` is that of the stream after the append. `fresh` is False when the log had all of the events before.
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
    """A pending row that outlived its purpose. `EventLog.stale_pending` explains the reasons."""

    kind: PendingKind
    key: str
    stream_id: str
    opened_at: datetime
    due_at: datetime | None
    reason: StaleReason


#: How long a row of each kind may wait after its due time, or after it was opened when it has none. Kinds that are not
#: listed may wait for ever: a build may sleep until its account has money or a person wakes it.
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
    """An append-only log. Every call may raise Unavailable. Repeat an append then: it may have been committed."""

    async def append(
        self, stream_id: str, events: Sequence[NewEvent], *, expected_version: int | None = None
    ) -> Appended:
        """Append to one stream, atomically.

        Repeating an append changes nothing and returns what was recorded. Raises VersionConflict, EventIdReused,
        ForeignEventType, StreamClosed.
        """

    async def append_all(self, appends: Sequence[Append]) -> tuple[Appended, ...]:
        """Append to several streams in one transaction. Raises what `append` raises; nothing is appended then."""

    def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """Yield the stream's events in version order, or backwards. Both bounds are inclusive."""

    async def read_shards(self, cursors: Mapping[int, int], *, limit: int) -> Sequence[Row]:
        """Return for each shard up to `limit` rows after its position, in commit order and without gaps."""

    async def read_open_streams(
        self, shards: Sequence[int], *, after: tuple[str, int] = ("", 0), limit: int
    ) -> Sequence[Row]:
        """Return rows of the open streams of these shards, and of closed ones with pending rows, by stream and version.

        `after` is the (stream, version) of the last row of the page before.
        """

    async def pending(
        self, kind: PendingKind, *, due_before: datetime | None = None, limit: int = 1000, after_key: str = ""
    ) -> Sequence[PendingItem]:
        """Return pending rows of a kind, sorted by key. With `due_before`: those due by then, the soonest due first."""

    async def stale_pending(self, *, grace_s: float = 600.0, limit: int = 100) -> Sequence[StalePending]:
        """Return the pending rows that outlived their purpose, oldest first. A healthy log has none.

        `build_ended`: the stream closed `grace_s` seconds ago, and no completion snapshot needs the row.
        `build_awake`: a pre-sleep snapshot, `grace_s` seconds old, of a build that neither sleeps nor is about to wake.
        `overdue`: the row is older than PENDING_ALLOWED.
        """


def build_stream(build_id: str) -> str:
    """Return the stream id of a build."""
    return f"build-{build_id}"


def account_stream(account_id: str) -> str:
    """Return the stream id of an account."""
    return f"account-{account_id}"


@lru_cache(maxsize=4096)
def shard_of(stream_id: str) -> int:
    """Return the shard of a stream, 0 to SHARDS - 1, as the SQL function `shard_of` does. It never changes."""
    return sha256(stream_id.encode()).digest()[0] % SHARDS
