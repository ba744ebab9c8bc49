"""The ports of the relay: what it needs from PostgreSQL and Kafka."""

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
    """The broker's acknowledgement of one send to a topic-partition.

    `first` and `last` are the offsets of the first and the last record, or -1 when the broker did not report them. A
    send may be split into batches. `batch` is the offset of the last batch, and `record` is the first record in it.
    """

    partition: TopicPartition
    first: int
    last: int
    batch: int
    record: Record


@dataclass(frozen=True, slots=True)
class BrokerRecord:
    """A record as Kafka has it, without its value."""

    partition: TopicPartition
    offset: int
    headers: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Cursors:
    """Up to which position of the log each shard of a group is published.

    `newest_loss` is the number of the broker's last data loss. The shards in `behind` have not been published again
    since that loss.
    """

    positions: dict[int, int]
    newest_loss: int
    behind: tuple[int, ...]


class LeaderSession(Protocol):
    """The database session through which a process leads a group of shards.

    Every call raises LeadershipLost when the session is gone.
    """

    async def lead(self) -> bool:
        """Try to become the leader. Returns True when this session leads now, also when it led before."""

    async def newest_loss(self) -> int:
        """Return the number of the broker's last data loss, 0 when there was none.

        The leader calls it regularly, because a successful call also proves that the session lives.
        """

    async def cursors(self) -> Cursors:
        """Return up to which position each shard of the group is published, and the broker's last data loss."""

    async def last_published(self) -> Sequence[LastPublished]:
        """Return for each topic-partition the first record of the last batch that the broker acknowledged."""

    async def move(self, cursors: Mapping[int, int], published: Sequence[LastPublished]) -> None:
        """Move the shards' positions forward, and store the last acknowledged records, in one transaction.

        A position or offset below the stored one changes nothing.
        """

    async def note_loss(self, reason: str, seen: int) -> int:
        """Record that the broker lost data, so that every shard is published again. Returns the number of the last
        loss.

        `seen` is the number of the last loss that the caller knew. When another leader has recorded a newer one,
        nothing is recorded.
        """

    async def republished(self, shards: Sequence[int], loss: int) -> None:
        """Record that these shards were published again after the loss with this number."""


class LogReader(Protocol):
    """Reads the event log by shards. Every call may raise Unavailable."""

    async def read(self, cursors: Mapping[int, int], *, max_events: int, max_bytes: int) -> Sequence[Row]:
        """Return the rows after the position that `cursors` has for each shard, in commit order within a shard.

        `max_events` and `max_bytes` limit how many rows are returned.
        """

    async def read_unfinished(
        self, shards: Sequence[int], *, after: tuple[str, int], limit: int
    ) -> Sequence[Row]:
        """Return up to `limit` rows of the unfinished streams, sorted by stream id and version.

        A stream is unfinished when it has no last event, such as `build.ready`, or when it has pending rows. `after` is
        the stream id and version of the last row that was already read. Only later rows are returned.
        """

    async def known(self, event_ids: Sequence[UUID]) -> Mapping[UUID, tuple[str, int]]:
        """Return event id → (build or account id, version in the stream), for those events that the log has."""

    async def lag(self, shards: Sequence[int]) -> tuple[int, float]:
        """Return how many events of these shards are not published yet, and the age of the oldest one in seconds."""


class Broker(Protocol):
    """A session with the broker: a producer and a reader. Every call may raise Unavailable."""

    def partition_of(self, topic: str, key: bytes) -> TopicPartition:
        """Return the partition to which records with this key go."""

    def partitions(self) -> Sequence[TopicPartition]:
        """Return all partitions of the topics to which the relay publishes."""

    async def send(self, records: Mapping[TopicPartition, Sequence[Record]]) -> Sequence[Ack]:
        """Send the records, in order within each partition. Returns when the broker has acknowledged all."""

    async def offset_ranges(
        self, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, OffsetRange]:
        """Return the first and the end offset of each of these partitions that exists."""

    def read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> AsyncIterator[BrokerRecord]:
        """Yield the records in these ranges of offsets. The second offset of a range is exclusive."""


class AppendNotifications(Protocol):
    """Receives the notifications that writers send after each commit."""

    @property
    def listening(self) -> bool:
        """True while notifications arrive."""

    async def wait(self, seconds: float) -> frozenset[int]:
        """Wait up to `seconds` for a notification, and return the shards to which writers have appended since the last
        call.

        Returns an empty set when no notification has come.
        """
