"""The simulated broker, its consumers and the relay: facts reach every replica at least once, in order per stream."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from nightshift.bus.port import Handler
from nightshift.bus.seen import SeenSequences
from nightshift.contracts.model import Event, Owner
from nightshift.eventlog.errors import Refused, Transient, Unavailable
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.port import RecordedEvent
from nightshift.eventlog.prepare import recorded
from nightshift.simulation import World

#: Seconds that a fetch waits at the broker for a message.
FETCH_WAIT_S = 3.0
#: Records that one fetch returns at most.
FETCH_LIMIT = 20


@dataclass(frozen=True, slots=True)
class Position:
    """Where a consumer is in a topic. `epoch` counts how often the broker has lost its data."""

    epoch: int
    offset: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that its handler refused."""

    group: str
    event: RecordedEvent
    error: Refused


class SimulatedBroker:
    """Topics of one partition each, and the offsets that groups have committed. `empty` loses both."""

    def __init__(self) -> None:
        self.epoch = 0
        self.dead_letters: list[DeadLetter] = []
        self._topics: defaultdict[Owner, list[RecordedEvent]] = defaultdict(list)
        self._committed: dict[tuple[str, Owner], int] = {}
        self._arrived = asyncio.Event()

    async def publish(self, events: Sequence[RecordedEvent]) -> int:
        """Appends each event to its owner's topic. Returns the epoch that the events are in."""
        for event in events:
            self._topics[event.data.owner].append(event)
        self._wake()
        return self.epoch

    async def fetch(
        self, group: str, topic: Owner, position: Position | None
    ) -> tuple[Position, list[RecordedEvent]]:
        """Returns what follows `position`, or what follows the committed offset when the position is of no use."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FETCH_WAIT_S):
                while True:
                    if position is None or position.epoch != self.epoch:
                        position = Position(self.epoch, self._committed.get((group, topic), 0))
                    if position.offset < len(self._topics[topic]):
                        break
                    await self._arrived.wait()
        assert position is not None
        return position, self._topics[topic][position.offset : position.offset + FETCH_LIMIT]

    async def commit(self, group: str, topic: Owner, position: Position) -> None:
        """Keeps the group's offset, unless the broker lost its data since."""
        if position.epoch == self.epoch:
            self._committed[group, topic] = position.offset

    def empty(self) -> None:
        """Loses every record and every offset, as an embedded broker does when it is killed."""
        self.epoch += 1
        self._topics.clear()
        self._committed.clear()
        self._wake()

    def _wake(self) -> None:
        self._arrived.set()
        self._arrived = asyncio.Event()


class Consumer:
    """One group's consumer of one topic in one process. Each replica has groups of its own and sees every record."""

    def __init__(
        self,
        world: World,
        broker: SimulatedBroker,
        group: str,
        handlers: Mapping[type[Event], Handler],
    ) -> None:
        (self._topic,) = {event.owner for event in handlers}
        self._world = world
        self._broker = broker
        self._group = group
        self._handlers = {event.type: handler for event, handler in handlers.items()}
        self._seen = SeenSequences(1_000)

    async def run(self) -> None:
        """Fetches and handles until it is cancelled."""
        position: Position | None = None
        while True:
            fetch = partial(self._broker.fetch, self._group, self._topic, position)
            try:
                position, batch = await self._world.remote(f"fetch {self._topic}", fetch)
                for event in batch:
                    await self._handle(event)
                position = Position(position.epoch, position.offset + len(batch))
                if batch:
                    commit = partial(self._broker.commit, self._group, self._topic, position)
                    await self._world.remote(f"commit {self._topic}", commit)
            except Unavailable:
                await self._world.pause()

    async def _handle(self, event: RecordedEvent) -> None:
        handler = self._handlers.get(event.data.type)
        is_fact = self._topic is not Owner.OUTSIDE
        if handler is None or (is_fact and self._seen.is_stale(event.subject, event.version)):
            return
        self._world.note(f"handles {event.subject} {event.version} {event.data.type}")
        while True:
            try:
                await handler(event)
            except Transient:
                await self._world.pause()
                continue
            except Refused as error:
                self._broker.dead_letters.append(DeadLetter(self._group, event, error))
            break
        if is_fact:
            self._seen.advance(event.subject, event.version)


@dataclass(slots=True)
class RelayProgress:
    """What the relay has stored: its cursors, and the epoch of the broker that it published to."""

    cursors: dict[int, int] = field(default_factory=dict)
    epoch: int = 0


async def relay(
    world: World, log: MemoryEventLog, broker: SimulatedBroker, progress: RelayProgress, shards: Sequence[int]
) -> None:
    """Publishes the log in order. After the broker lost its data, publishes every unfinished stream again."""
    for shard in shards:
        progress.cursors.setdefault(shard, 0)
    while True:
        try:
            rows = list(await log.read_shards(progress.cursors, limit=20))
            cursors = progress.cursors | {row.shard: row.position for row in rows}
            epoch = await world.remote("publish", partial(broker.publish, [recorded(row) for row in rows]))
            if epoch != progress.epoch:
                await _publish_again(world, log, broker, shards)
                progress.epoch = epoch
            progress.cursors = cursors
        except Unavailable:
            continue
        await asyncio.sleep(world.draws.uniform(0.1, 0.5))


async def _publish_again(
    world: World, log: MemoryEventLog, broker: SimulatedBroker, shards: Sequence[int]
) -> None:
    after = ("", 0)
    while rows := await log.read_open_streams(shards, after=after, limit=50):
        after = (rows[-1].stream_id, rows[-1].version)
        await world.remote("publish again", partial(broker.publish, [recorded(row) for row in rows]))
