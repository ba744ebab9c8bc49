"""Decides whether the broker still holds what it acknowledged.

Retention removes records only from the front, and the end of a partition never moves back. So an end before the last
acknowledged record batch, or another record at its offset, means that the broker lost data.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from nightshift.bus.port import TopicPartition
from nightshift.relay.domain.records import LastPublished


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """The offsets that a topic-partition holds: the first, and the one that the next record will get."""

    start: int
    end: int


def can_be_read(last: LastPublished, ranges: Mapping[TopicPartition, OffsetRange]) -> bool:
    """Whether the broker holds the offset: it is neither beyond the end nor removed by retention."""
    offsets = ranges.get(last.partition)
    return offsets is not None and offsets.start <= last.offset < offsets.end


def data_loss(
    last: LastPublished, ranges: Mapping[TopicPartition, OffsetRange], found: str | None
) -> str | None:
    """Return why the broker must have lost acknowledged records, or None when it holds them.

    `found` is the `ce_id` of the record at the offset, None when there is none.
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
