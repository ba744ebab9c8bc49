"""What a look at the broker means: does it still hold what it acknowledged?

Only the last acknowledged record batch of a lane counts, told by its first record. Retention and DeleteRecords take
from the front, and a lane's end never goes back; so an end before the record, or another record in its place, is a log
that was lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from nightshift.relay.domain.records import Lane, LastPublished


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """The offsets a lane holds: the first, and the one the next record will get."""

    start: int
    end: int


def to_read(published: LastPublished, offset_ranges: Mapping[Lane, OffsetRange]) -> bool:
    """Whether the last acknowledged record can be read: it is neither beyond the end nor taken by retention."""
    offsets = offset_ranges.get(published.lane)
    return offsets is not None and offsets.start <= published.offset < offsets.end


def loss(
    published: LastPublished, offset_ranges: Mapping[Lane, OffsetRange], found: str | None
) -> str | None:
    """Why the broker must have lost acknowledged records; none when it holds what it should.

    `found` is the `ce_id` of the record at the offset; none when there was nothing to read, or it has no such header.
    """
    lane, offsets = published.lane, offset_ranges.get(published.lane)
    where = f"{lane.topic}[{lane.partition}]"
    if offsets is None:
        return f"{where} is not there; offset {published.offset} was acknowledged"
    if offsets.end <= published.offset:
        return f"{where} ends at offset {offsets.end}; offset {published.offset} was acknowledged"
    if published.offset < offsets.start:
        return None
    if found != str(published.event_id):
        return f"{where} has another record at offset {published.offset} than the one acknowledged"
    return None
