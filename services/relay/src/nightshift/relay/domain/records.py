"""Records for Kafka, grouped by topic-partition. Each group has the order of the log."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from nightshift.bus.port import TopicPartition
from nightshift.eventlog.port import Row


class Record(NamedTuple):
    """A row of the log in the form in which it is sent to Kafka."""

    partition: TopicPartition
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    row: Row


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one read of the log, by topic-partition and in log order. `count` is their number.

    `cursors` (shard → position) are the positions to store when the broker has acknowledged all records.
    """

    records: Mapping[TopicPartition, list[Record]]
    cursors: Mapping[int, int]
    count: int


@dataclass(frozen=True, slots=True)
class LastPublished:
    """The first record of the last batch that the broker acknowledged for a topic-partition.

    A broker keeps or loses only whole batches, so looking for this record shows whether the batch is still there.
    """

    partition: TopicPartition
    offset: int
    event_id: UUID
    stream_id: str
    version: int


class AcknowledgedOffsets(dict[TopicPartition, tuple[int, int]]):
    """Topic-partition → two offsets: where its last acknowledged batch begins, and that of its last record."""

    def take(self, partition: TopicPartition, first: int, batch: int, last: int) -> bool:
        """Note one acknowledged send: the offsets of its first record, of the first record of its last batch, and of
        its last record.

        Returns False when the broker gave out an offset a second time, which proves that it lost records.
        """
        known = self.get(partition)
        self[partition] = (batch, last)
        return known is None or first > known[1]


def group_by_partition(records: Iterable[Record]) -> Batch | None:
    """Return these records as a batch, or None when there are none. Records of one shard must be in log order."""
    grouped: dict[TopicPartition, list[Record]] = {}
    cursors: dict[int, int] = {}
    count = 0
    for record in records:
        grouped.setdefault(record.partition, []).append(record)
        cursors[record.row.shard] = record.row.position
        count += 1
    return Batch(grouped, cursors, count) if count else None


def shards_of(group: int, groups: int, shards: int) -> range:
    """Return the numbers of the shards that belong to group number `group`, out of `groups` groups and `shards` shards.

    Every shard belongs to exactly one group. Raises ValueError for an unknown group.
    """
    if not 0 <= group < groups <= shards:
        raise ValueError(f"group {group} of {groups}: there are {shards} shards")
    return range(group, shards, groups)
