"""A scenario: writers that crash and lose answers append to the log, and a reader follows it like the relay.

Invariants: an append is in the log once and as a whole. Of two writers that expect the same version, one succeeds. A
reader of a shard by position misses no event, and sees each stream in version order.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID, uuid5

from nightshift.contracts.events.build import AgentSteered
from nightshift.contracts.ids import NAMESPACE
from nightshift.eventlog.errors import EventIdReused, Unavailable, VersionConflict
from nightshift.eventlog.memory import MemoryEventLog, MemoryTables
from nightshift.eventlog.port import Append, NewEvent, RecordedEvent, Row, build_stream, shard_of
from nightshift.simulation.world import Violation, World

STREAMS = tuple(build_stream(f"b{number}") for number in range(2))
SHARED = build_stream("shared")
SHARDS = tuple(sorted({shard_of(name) for name in (*STREAMS, SHARED)}))
WRITERS = 2
STEPS = 3


@dataclass(frozen=True, slots=True)
class Fixture:
    """Defects that a test builds in, to check that the invariants find them."""

    drawn_ids: bool = False  # each attempt of an append has another cause, and so other event ids
    any_version: bool = False  # CounterUp appends without an expected version
    late_rows: bool = (
        False  # a row becomes visible some time after it got its position, as without the shard's lock
    )
    cursor_first: bool = False  # the reader stores its cursor before it publishes


@dataclass(slots=True)
class Store:
    """The data that survives crashes: the tables of the log, the reader's cursors, and the published rows."""

    tables: MemoryTables = field(default_factory=MemoryTables)
    cursors: dict[int, int] = field(default_factory=lambda: dict.fromkeys(SHARDS, 0))
    published: list[Row] = field(default_factory=list)
    visible_at: dict[int, float] = field(default_factory=dict)


def message(text: str, *, cause: UUID, index: int = 0) -> NewEvent:
    """Returns an event that contains this text. The log derives the event's id from `cause` and `index`."""
    return NewEvent(AgentSteered(reason="person", message=text), cause, index)


class Actor:
    """A simulated process with its own client of the log."""

    def __init__(self, world: World, store: Store, fixture: Fixture, name: str) -> None:
        self.world = world
        self.store = store
        self.fixture = fixture
        self.name = name
        self.log = MemoryEventLog(store.tables, wire=world, now=world.now, actor=name)
        self._attempts = 0

    def cause(self, step: object) -> UUID:
        """Returns the id of a step's cause, from which the ids of its events are derived.

        Each attempt gets the same id. With the defect `drawn_ids`, each attempt gets another one.
        """
        self._attempts += 1
        again = f"/{self._attempts}/{self.world.draws.random()}" if self.fixture.drawn_ids else ""
        return uuid5(NAMESPACE, f"{self.name}/{step}{again}")


class Writer(Actor):
    """Appends each step to both streams in one transaction. After a crash it starts again with the first step."""

    async def main(self) -> None:
        for step in range(STEPS):
            text = f"{self.name}/{step}"
            while True:
                cause = self.cause(step)
                appends = [
                    Append(name, [message(text, cause=cause, index=index)])
                    for index, name in enumerate(STREAMS)
                ]
                try:
                    await self.log.append_all(appends)
                except Unavailable:
                    await self.world.pause()
                    continue
                if not self.world.strikes(self.world.profile.redeliveries):
                    break


class CounterUp(Actor):
    """Appends the next number to a stream to which other processes append numbers too."""

    async def main(self) -> None:
        while True:
            seen = await self._read()
            mine = sum(event.actor == self.name for event in seen)
            if mine == STEPS:
                return
            event = message(str(len(seen) + 1), cause=uuid5(NAMESPACE, f"{self.name}/{mine}/{len(seen)}"))
            expected = None if self.fixture.any_version else len(seen)
            try:
                await self.log.append(SHARED, [event], expected_version=expected)
            except (VersionConflict, Unavailable) as error:
                self.world.note(f"reads again after {type(error).__name__}")

    async def _read(self) -> list[RecordedEvent]:
        while True:
            try:
                return [event async for event in self.log.read_stream(SHARED)]
            except Unavailable:
                await self.world.pause()


class Reader(Actor):
    """Reads the shards by position and publishes the rows, until every row of the run is published."""

    async def main(self) -> None:
        total = len(STREAMS) * WRITERS * STEPS + WRITERS * STEPS
        while len({row.event_id for row in self.store.published}) < total:
            cursors = dict(self.store.cursors)
            try:
                rows = self._visible(await self.log.read_shards(cursors, limit=3))
                moved = cursors | {row.shard: row.position for row in rows}
                publish = ("publish", partial(self._publish, rows))
                move = ("move", partial(self._move, moved))
                for what, call in (move, publish) if self.fixture.cursor_first else (publish, move):
                    await self.world.remote(what, call)
            except Unavailable:
                self.world.note("reads again")

    async def _publish(self, rows: Sequence[Row]) -> None:
        self.store.published += rows

    async def _move(self, cursors: dict[int, int]) -> None:
        self.store.cursors.update(cursors)

    def _visible(self, rows: Sequence[Row]) -> list[Row]:
        if not self.fixture.late_rows:
            return list(rows)
        now = self.world.loop.time()
        for row in rows:
            self.store.visible_at.setdefault(row.position, now + self.world.profile.latency(self.world.draws))
        return [row for row in rows if self.store.visible_at[row.position] <= now]


async def scenario(world: World, *, fixture: Fixture | None = None) -> None:
    """Runs two writers, two counters and a reader, and checks the log and the published rows."""
    fixture, store = fixture or Fixture(), Store()
    actors: list[Writer | CounterUp | Reader] = [
        *(Writer(world, store, fixture, f"writer-{number}") for number in range(WRITERS)),
        *(CounterUp(world, store, fixture, f"counter-{number}") for number in range(WRITERS)),
        Reader(world, store, fixture, "reader"),
    ]
    await world.finish([world.start(actor.name, actor.main) for actor in actors], within=1800)
    check_streams(store)
    check_published(store)
    await check_reuse(world, store)


def check_streams(store: Store) -> None:
    """Raises Violation when a step is missing or occurs twice, a version is missing, or a number is wrong."""
    for name in STREAMS:
        texts = Counter(row.data for row in store.tables.streams[name].rows)
        if len(texts) != WRITERS * STEPS or set(texts.values()) != {1}:
            raise Violation(f"{name}: {sum(texts.values())} events hold {len(texts)} steps")
    for name, stream in store.tables.streams.items():
        if [row.version for row in stream.rows] != list(range(1, len(stream.rows) + 1)):
            raise Violation(f"{name}: versions {[row.version for row in stream.rows]}")
    for row in store.tables.streams[SHARED].rows:
        if f'"{row.version}"' not in row.data:
            raise Violation(f"{SHARED}: the event at version {row.version} holds {row.data}")


def check_published(store: Store) -> None:
    """Raises Violation when a row was never published, or only after a later row of its stream."""
    newest: dict[str, int] = {}
    for row in store.published:
        before = newest.get(row.stream_id, 0)
        if row.version > before + 1:
            raise Violation(f"{row.stream_id}: {row.version} was published after {before}")
        newest[row.stream_id] = max(before, row.version)
    for name, stream in store.tables.streams.items():
        if newest.get(name) != len(stream.rows):
            raise Violation(f"{name}: published up to {newest.get(name)} of {len(stream.rows)}")


async def check_reuse(world: World, store: Store) -> None:
    """Appends other data with an event id that the log already has. Raises Violation when the log accepts the data."""
    log = MemoryEventLog(store.tables, now=world.now)
    known = store.tables.streams[SHARED].rows[0]
    try:
        await log.append(SHARED, [message("something else", cause=known.causation_id)])
    except EventIdReused:
        return
    raise Violation(f"{SHARED}: an id was reused with other content")
