"""Records for the broker, grouped by topic-partition. Each group keeps the order of the log."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from nightshift.bus.port import TopicPartition
from nightshift.eventlog.port import Row


class Record(NamedTuple):
    """A row of the log, ready to be produced."""

    partition: TopicPartition
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    row: Row


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one read, `count` in number, by topic-partition and in log order.

    When the broker has acknowledged all, the cursors may move to `cursors` (shard → position).
    """

    records: Mapping[TopicPartition, list[Record]]
    cursors: Mapping[int, int]
    count: int


@dataclass(frozen=True, slots=True)
class LastPublished:
    """The first record of the last batch acknowledged in a topic-partition. A broker keeps or loses whole batches."""

    partition: TopicPartition
    offset: int
    event_id: UUID
    stream_id: str
    version: int


class AcknowledgedOffsets(dict[TopicPartition, tuple[int, int]]):
    """The offsets of the last record batch and of the last record that the broker acknowledged, by topic-partition."""

    def take(self, partition: TopicPartition, first: int, batch: int, last: int) -> bool:
        """Note the offsets of one send: its first record, its last record batch, its last record.

        Returns False when the broker gave an offset twice, which means that the broker lost records.
        """
        known = self.get(partition)
        self[partition] = (batch, last)
        return known is None or first > known[1]


def group_by_partition(records: Iterable[Record]) -> Batch | None:
    """Return a batch of these records, which come in log order per shard. Returns None when there are none."""
    grouped: dict[TopicPartition, list[Record]] = {}
    cursors: dict[int, int] = {}
    count = 0
    for record in records:
        grouped.setdefault(record.partition, []).append(record)
        cursors[record.row.shard] = record.row.position
        count += 1
    return Batch(grouped, cursors, count) if count else None


def shards_of(group: int, groups: int, shards: int) -> range:
    """Return the shards of one group. Each shard is in exactly one group. Raises ValueError for an unknown group."""
    if not 0 <= group < groups <= shards:
        raise ValueError(f"group {group} of {groups}: there are {shards} shards")
    return range(group, shards, groups)
