"""What goes to the broker, and in which lanes: within a lane nothing overtakes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID


class Lane(NamedTuple):
    """A topic-partition. All events of one owner about one build are in one lane."""

    topic: str
    partition: int


class Record(NamedTuple):
    """One event ready to be produced, and where the log has it."""

    lane: Lane
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    shard: int
    position: int
    stream_id: str
    version: int
    event_id: UUID


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one read, by lane in log order. When all are acknowledged, the cursors may move to `cursors`."""

    lanes: Mapping[Lane, list[Record]]
    cursors: Mapping[int, int]
    count: int


@dataclass(frozen=True, slots=True)
class LastPublished:
    """The last record batch a lane's broker acknowledged, by its first record: a batch is kept or lost as a whole."""

    lane: Lane
    offset: int
    event_id: UUID
    stream_id: str
    version: int


@dataclass(slots=True)
class AcknowledgedOffsets:
    """Per lane, the offsets that a leader was given last: of the last batch, and of the last record in it.

    Bounded by the number of lanes.
    """

    offsets: dict[Lane, tuple[int, int]] = field(default_factory=dict)

    def take(self, lane: Lane, first: int, batch: int, last: int) -> bool:
        """Note a send: its first record's offset, its last batch's and its last record's.

        False when it does not follow what was acknowledged before: a log that gives an offset twice is not the
        log it was.
        """
        known = self.offsets.get(lane)
        self.offsets[lane] = (batch, last)
        return known is None or first > known[1]


def lay_out(records: Iterable[Record]) -> Batch | None:
    """A batch of records that come in log order per shard; none when there are none."""
    lanes: dict[Lane, list[Record]] = {}
    cursors: dict[int, int] = {}
    count = 0
    for record in records:
        lanes.setdefault(record.lane, []).append(record)
        cursors[record.shard] = record.position
        count += 1
    return Batch(lanes, cursors, count) if count else None


def shards_of(group: int, groups: int, shards: int) -> range:
    """The shards of one group: together the groups have each shard once."""
    if not 0 <= group < groups <= shards:
        raise ValueError(f"group {group} of {groups}: there are {shards} shards")
    return range(group, shards, groups)
