"""Decides whether the broker lost records that it had acknowledged.

Retention deletes only from the front of a partition, and its end never moves back. So the broker lost data when a
partition ends before the last acknowledged batch, or has another record at that offset.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from nightshift.bus.port import TopicPartition
from nightshift.relay.domain.records import LastPublished


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """The offsets of the records that a topic-partition has.

    `start` is the first of them. `end` is the offset that the next record will get.
    """

    start: int
    end: int


def can_be_read(last: LastPublished, ranges: Mapping[TopicPartition, OffsetRange]) -> bool:
    """Return whether the partition still has a record at the offset of `last`.

    Returns False when the offset is not below the partition's end, or when retention has deleted the record.
    """
    offsets = ranges.get(last.partition)
    return offsets is not None and offsets.start <= last.offset < offsets.end


def data_loss(
    last: LastPublished, ranges: Mapping[TopicPartition, OffsetRange], found: str | None
) -> str | None:
    """Return why the broker must have lost acknowledged records, or None when it did not.

    `found` is the `ce_id` of the record at the offset of `last`. None means that there is no record at this offset.
    """
    partition, offsets = last.partition, ranges.get(last.partition)
    where = f"{partition.topic}[{partition.partition}]"
    if offsets is None:
        return f"{where} does not exist; offset {last.offset} was acknowledged"
    if offsets.end <= last.offset:
        return f"{where} ends at offset {offsets.end}; offset {last.offset} was acknowledged"
    if last.offset < offsets.start:
        return None
    if found != str(last.event_id):
        return f"{where} has another record at offset {last.offset} than the one acknowledged"
    return None
