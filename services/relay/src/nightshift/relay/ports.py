"""What the relay needs from PostgreSQL and Kafka."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from nightshift.bus.port import TopicPartition
from nightshift.eventlog.port import Row
from nightshift.relay.domain.data_loss import OffsetRange
from nightshift.relay.domain.records import LastPublished, Record


@dataclass(frozen=True, slots=True)
class Ack:
    """The offsets of one send to a topic-partition: of the first and the last record, -1 where not reported.

    `batch` is the offset of the last record batch, and `record` the first record in it.
    """

    partition: TopicPartition
    first: int
    last: int
    batch: int
    record: Record


@dataclass(frozen=True, slots=True)
class BrokerRecord:
    """A record as the broker holds it, without its value."""

    partition: TopicPartition
    offset: int
    headers: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Cursors:
    """How far each shard of a group is published. `behind`: shards not yet republished after loss `newest_loss`."""

    positions: dict[int, int]
    newest_loss: int
    behind: tuple[int, ...]


class LeaderSession(Protocol):
    """The database session of one group of shards. Every call raises LeadershipLost when the session is gone."""

    async def lead(self) -> bool:
        """Try to become the leader. Returns True when this session leads, also when it led before."""

    async def newest_loss(self) -> int:
        """Return the number of the newest loss, 0 when there was none. The answer proves that the session lives."""

    async def cursors(self) -> Cursors:
        """Return how far each shard of the group is published."""

    async def last_published(self) -> Sequence[LastPublished]:
        """Return what the broker acknowledged last, for each topic-partition."""

    async def move(self, cursors: Mapping[int, int], published: Sequence[LastPublished]) -> None:
        """Move cursors forward and store what was acknowledged, in one transaction.

        A position or an offset below the stored one changes nothing.
        """

    async def note_loss(self, reason: str, seen: int) -> int:
        """Record that the broker lost data, so that every shard is published again. Returns the newest loss.

        Records nothing when there is a newer loss than `seen`.
        """

    async def republished(self, shards: Sequence[int], loss: int) -> None:
        """Record that these shards were published again after this loss."""


class LogReader(Protocol):
    """Reads the log by shards. Raises Unavailable."""

    async def read(self, cursors: Mapping[int, int], *, max_events: int, max_bytes: int) -> Sequence[Row]:
        """Return the next rows after these positions, in commit order within a shard."""

    async def read_unfinished(
        self, shards: Sequence[int], *, after: tuple[str, int], limit: int
    ) -> Sequence[Row]:
        """Return rows of unfinished streams, by stream and version, from just after (stream, version) `after`."""

    async def known(self, event_ids: Sequence[UUID]) -> Mapping[UUID, tuple[str, int]]:
        """Return the subject (build or account id) and the stream version of each of these events in the log."""

    async def lag(self, shards: Sequence[int]) -> tuple[int, float]:
        """Return the number of events that are not published yet, and the age of the oldest in seconds."""


class Broker(Protocol):
    """A session with the broker: a producer, and a reader of what the broker holds. Raises Unavailable."""

    def partition_of(self, topic: str, key: bytes) -> TopicPartition:
        """Return the partition of records with this key."""

    def partitions(self) -> Sequence[TopicPartition]:
        """Return every partition of the topics of facts."""

    async def send(self, records: Mapping[TopicPartition, Sequence[Record]]) -> Sequence[Ack]:
        """Send records in order within each partition. Returns when the broker has acknowledged all."""

    async def offset_ranges(
        self, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, OffsetRange]:
        """Return the offsets of each partition that exists."""

    def read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> AsyncIterator[BrokerRecord]:
        """Yield the records in these offset ranges. The end of a range is exclusive."""


class AppendNotifications(Protocol):
    """Receives the notifications that writers send after each commit."""

    @property
    def listening(self) -> bool:
        """Return whether notifications arrive."""

    async def wait(self, seconds: float) -> frozenset[int]:
        """Wait up to `seconds` for a notification. Returns the shards with new events since the last wait."""
