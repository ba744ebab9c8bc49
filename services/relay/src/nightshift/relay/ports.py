"""What the relay needs of the world, as small as it needs it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from nightshift.eventlog.port import Row
from nightshift.relay.domain.divergence import StreamVersion
from nightshift.relay.domain.readback import OffsetRange
from nightshift.relay.domain.records import Lane, LastPublished, Record


@dataclass(frozen=True, slots=True)
class Ack:
    """Offsets the broker gave a lane's records: the first and the last; -1 where it did not notify.

    `batch` is the offset of the last record batch of the send, `record` the first record in it.
    """

    lane: Lane
    first: int
    last: int
    batch: int
    record: Record


@dataclass(frozen=True, slots=True)
class BrokerRecord:
    """A record as the broker holds it: its place and its headers, not its value."""

    lane: Lane
    offset: int
    headers: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Cursors:
    """Where the shards of a group are. `behind` are those not yet published again after `newest_loss`."""

    positions: dict[int, int]
    newest_loss: int
    behind: tuple[int, ...]


class LeaderSession(Protocol):
    """The database session of one group of shards. Every call raises LeadershipLost when the session is gone."""

    async def lead(self) -> bool:
        """Try to become the leader; true also when it is already."""
        ...

    async def alive(self) -> int:
        """Prove that the session lives; answers the newest loss."""
        ...

    async def cursors(self) -> Cursors: ...

    async def published(self) -> Sequence[LastPublished]: ...

    async def move(self, cursors: Mapping[int, int], published: Sequence[LastPublished]) -> None:
        """Move cursors forward and note what was acknowledged, in one transaction."""
        ...

    async def note_loss(self, reason: str, seen: int) -> int: ...

    async def republished(self, shards: Sequence[int], loss: int) -> None: ...


class LogReader(Protocol):
    """The log, read by shards. Raises Unavailable."""

    async def read(self, cursors: Mapping[int, int], *, max_events: int, max_bytes: int) -> Sequence[Row]: ...

    async def read_unfinished(
        self, shards: Sequence[int], *, after: tuple[str, int], limit: int
    ) -> Sequence[Row]: ...

    async def known(self, event_ids: Sequence[UUID]) -> Mapping[UUID, StreamVersion]: ...

    async def lag(self, shards: Sequence[int]) -> tuple[int, float]:
        """Events after the cursors, and the age of the oldest in seconds."""
        ...

    async def answers(self) -> bool:
        """Whether the log's server answers now; that it is away is said. Never raises."""
        ...


class Broker(Protocol):
    """A session with the broker: one producer and a look at what it holds. Raises Unavailable."""

    def lane(self, topic: str, key: bytes) -> Lane: ...

    def lanes(self) -> Sequence[Lane]: ...

    async def send(self, lanes: Mapping[Lane, Sequence[Record]]) -> Sequence[Ack]: ...

    async def offset_ranges(self, lanes: Sequence[Lane]) -> Mapping[Lane, OffsetRange]: ...

    def held(self, ranges: Mapping[Lane, tuple[int, int]]) -> AsyncIterator[BrokerRecord]:
        """The records of these offsets, the first inclusive, the second exclusive."""
        ...


class AppendNotifications(Protocol):
    """Writers' word that something was appended."""

    @property
    def listening(self) -> bool:
        """Whether notifications arrive at all."""
        ...

    async def wait(self, seconds: float) -> frozenset[int]:
        """Until a hint, or for so long; the shards that were notified at since the last wait."""
        ...


class BrokerConnector(Protocol):
    def connect(self) -> AbstractAsyncContextManager[Broker]: ...


class LeaderSessions(Protocol):
    def open(self, shards: Sequence[int]) -> AbstractAsyncContextManager[LeaderSession]: ...


class AppendListener(Protocol):
    def listen(self, shards: Sequence[int]) -> AbstractAsyncContextManager[AppendNotifications]: ...
