"""A scenario: tool calls go through relay and bus to two replicas of the sandbox gateway, which crash.

Each replica receives every message. Invariant: every call runs once and has one result, although messages are
published, delivered and handled repeatedly. Consumers commit offsets before the work is done. So the log keeps each
call pending until its result is appended.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self
from uuid import UUID, uuid5

from nightshift.bus.batch_intake import BatchIntake
from nightshift.bus.dead_letter_publisher import DeadLetterPublisher
from nightshift.bus.dispatch import Dispatcher
from nightshift.bus.memory import Stored
from nightshift.bus.message_processor import MessageProcessor
from nightshift.bus.policy import ConsumerPolicy
from nightshift.bus.port import Outgoing, Sent, Subscription, TopicPartition
from nightshift.contracts.cloudevents import encode_fact
from nightshift.contracts.envelope import Envelope, fact_source
from nightshift.contracts.events.build import ToolCallRequested
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.ids import NAMESPACE
from nightshift.contracts.model import PendingKind
from nightshift.contracts.registry import wire_name
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.large import blob_key
from nightshift.eventlog.memory import MemoryEventLog, MemoryTables
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import NewEvent, PendingItem, RecordedEvent, Row, build_stream
from nightshift.servicekit.pending_poller import PendingPoller
from nightshift.servicekit.worker_pool import WorkerPool
from nightshift.simulation.world import Violation, World

BUILDS = ("b1", "b2")
CALLS = 2  # per build
REPLICAS = 2
TOPIC, GROUP = "simulated.build", "gateway"
CAUSE = uuid5(NAMESPACE, "simulated bus")


@dataclass(frozen=True, slots=True)
class Fixture:
    """Defects that a test builds in, to check that the invariants find them."""

    no_wrapper: bool = False  # the sandbox runs a call again when it is asked again
    no_poller: bool = False  # no PendingPoller reads pending tool calls from the log
    drawn_result: bool = False  # the cause of a result is random instead of the id of its call


@dataclass(slots=True)
class Store:
    """The data that survives crashes: the log, one partition with its committed offset, and the calls that ran."""

    tables: MemoryTables = field(default_factory=MemoryTables)
    topic: list[Stored] = field(default_factory=list)
    sent: set[UUID] = field(default_factory=set)
    committed: int = 0
    effects: Counter[str] = field(default_factory=Counter)
    finished: set[str] = field(default_factory=set)
    dead_letters: list[Outgoing] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)

    def answered(self) -> Counter[str]:
        """Returns how often each result is in the log, by the JSON text of the result."""
        rows = [row for rows in self.tables.shards.values() for row in rows]
        return Counter(row.data for row in rows if row.type == ToolCallCompleted.type)

    def done(self) -> bool:
        """Returns whether no tool call is pending."""
        return not any(kind is PendingKind.TOOL_CALL for kind, _, _ in self.tables.pending)


class DeadLetterProducer:
    """Collects dead letters. All messages can be handled, so any dead letter is a violation."""

    def __init__(self, world: World, store: Store) -> None:
        self._world = world
        self._store = store

    async def send(self, messages: Sequence[Outgoing]) -> tuple[Sent, ...]:
        return await self._world.remote("dead letter", partial(self._take, messages))

    async def _take(self, messages: Sequence[Outgoing]) -> tuple[Sent, ...]:
        self._store.dead_letters += messages
        return tuple(Sent(message.topic, 0, 0) for message in messages)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...


class Relay:
    """Publishes every tool call, some of them repeatedly. Every second message carries a reference to its data."""

    def __init__(self, world: World, store: Store) -> None:
        self.world = world
        self.store = store
        self.objects = MemoryObjectStore(store.bodies, wire=world)

    async def main(self) -> None:
        while not self.store.done():
            rows = [row for rows in self.store.tables.shards.values() for row in rows]
            asked = [row for row in rows if row.type == ToolCallRequested.type]  # results go to another topic
            for row in sorted(asked, key=lambda row: row.position):
                if row.event_id not in self.store.sent or self.world.strikes(self.world.profile.redeliveries):
                    dataref = await self._kept(row) if row.version % 2 == 0 else None
                    await self.world.insist("send", partial(self._send, row, dataref))
            await self.world.pause()

    async def _kept(self, row: Row) -> str:
        body = row.data.encode()
        key = blob_key(hashlib.sha256(body).hexdigest())
        while True:
            try:
                await self.objects.put_if_absent(key, body)
            except Unavailable:
                await self.world.pause()
                continue
            return key

    async def _send(self, row: Row, dataref: str | None) -> None:
        message, at = encode(row, dataref), len(self.store.topic)
        self.store.sent.add(row.event_id)
        self.store.topic.append(Stored(TOPIC, 0, at, 0, message.key, message.value, message.headers))


class Replica:
    """A replica of the sandbox gateway with the real intake, pool and poller. This class simulates the Kafka client."""

    def __init__(self, world: World, store: Store, fixture: Fixture, name: str) -> None:
        self.world = world
        self.store = store
        self.fixture = fixture
        self.log = MemoryEventLog(store.tables, wire=world, now=world.now, actor=name)
        self.paused = False

    async def main(self) -> None:
        policy = ConsumerPolicy()
        self.paused = False
        async with WorkerPool("simulated", limit=2) as self.pool:
            subscription = Subscription(TOPIC, GROUP, {ToolCallRequested: self.on_call}, gate=self.pool)
            objects = MemoryObjectStore(self.store.bodies, wire=self.world)
            dead_letters = DeadLetterPublisher(
                DeadLetterProducer(self.world, self.store), objects, topic="simulated.dead-letter"
            )
            dispatcher = Dispatcher(subscription, objects=objects)
            processor = MessageProcessor(
                dispatcher, dead_letters, policy.retry, topic=TOPIC, group=GROUP, gate=self.pool
            )
            intake = BatchIntake(processor, policy, topic=TOPIC, group=GROUP)
            intake.attach(self)
            poller = PendingPoller(self.log, PendingKind.TOOL_CALL, self.on_waiting, gate=self.pool)
            asking = asyncio.create_task(asyncio.sleep(0) if self.fixture.no_poller else poller.run())
            await self._poll(intake)
            asking.cancel()
            await intake.close()

    async def _poll(self, intake: BatchIntake) -> None:
        position = await self.world.insist("offset", self._committed)
        while not self.store.done():
            if self.world.strikes(self.world.profile.redeliveries / 4):
                position = max(0, position - 2)  # like a rebalance: uncommitted records are delivered again
            batch = await self.world.insist("poll", partial(self._read, position))
            if batch:
                position = batch[-1].offset + 1
                await intake.take(batch)

    async def on_call(self, event: RecordedEvent) -> None:
        """Offers the call to the worker pool, so that the consumer does not wait for it."""
        if isinstance(event.data, ToolCallRequested):
            self.pool.offer(event.data.call_id, partial(self._work, event.data.call_id, event))

    async def on_waiting(self, item: PendingItem) -> None:
        """Offers a pending call to the worker pool, unless the pool has it already."""
        if not self.pool.holds(item.key):
            self.pool.offer(item.key, partial(self._find, item))

    async def _find(self, item: PendingItem) -> None:
        async for event in self.log.read_stream(item.stream_id, from_version=item.version, limit=1):
            await self._work(item.key, event)

    async def _work(self, call_id: str, event: RecordedEvent) -> None:
        await self.world.insist("run", partial(self._run, call_id))
        cause = event.event_id
        if self.fixture.drawn_result:
            cause = uuid5(NAMESPACE, f"{call_id}/{self.world.draws.random()}")
        result = ToolCallCompleted(call_id=call_id, is_error=False, output="done", duration_ms=1)
        while True:
            try:
                await self.log.append(event.stream_id, [NewEvent(result, cause)])
            except Unavailable:
                await self.world.pause()
                continue
            return

    async def _run(self, call_id: str) -> None:
        """Runs the call in the sandbox, which remembers the calls it has run."""
        if call_id not in self.store.finished or self.fixture.no_wrapper:
            self.store.effects[call_id] += 1
            self.store.finished.add(call_id)

    async def _committed(self) -> int:
        return self.store.committed

    async def _read(self, position: int) -> list[Stored]:
        return [] if self.paused else self.store.topic[position : position + 3]

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self.paused = True

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self.paused = False

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        for offset in offsets.values():
            await self.world.remote("commit", partial(self._commit, offset))

    async def _commit(self, offset: int) -> None:
        self.store.committed = max(self.store.committed, offset)


def encode(row: Row, dataref: str | None) -> Outgoing:
    """Returns the message that the relay sends for this row of the log.

    If `dataref` is given, the message carries this reference instead of the data.
    """
    subject = row.stream_id.partition("-")[2]
    envelope = Envelope(
        id=str(row.event_id),
        type=wire_name(row.type, row.schema_version),
        source=fact_source(row.actor),
        subject=subject,
        time=row.recorded_at,
        sequence=row.version,
        correlation_id=row.correlation_id,
        causation_id=row.causation_id,
        dataref=dataref,
    )
    return Outgoing.of(TOPIC, encode_fact(envelope, row.data if dataref is None else "{}"))


async def scenario(world: World, *, fixture: Fixture | None = None) -> None:
    """Runs the tool calls of two builds through a relay and two replicas.

    Checks that each ran once and has one result.
    """
    fixture, store = fixture or Fixture(), Store()
    log = MemoryEventLog(store.tables, now=world.now)
    for build in BUILDS:
        for index in range(CALLS):
            call = ToolCallRequested(
                call_id=f"{build}/1/{index}", turn=1, index=index, tool="bash", tool_use_id="t", input={}
            )
            cause = uuid5(CAUSE, call.call_id)
            await log.append(build_stream(build), [NewEvent(call, cause)])
    relay = world.start("relay", Relay(world, store).main)
    replicas = [
        world.start(f"gateway-{number}", Replica(world, store, fixture, f"gateway-{number}").main)
        for number in range(REPLICAS)
    ]
    await world.finish([relay, *replicas], within=1800)
    calls = [f"{build}/1/{index}" for build in BUILDS for index in range(CALLS)]
    if store.effects != Counter(calls):
        raise Violation(f"effects: {dict(store.effects)}")
    results = store.answered()
    if len(results) != len(calls) or set(results.values()) != {1}:
        raise Violation(f"results: {dict(results)}")
    if store.dead_letters:
        raise Violation(f"{len(store.dead_letters)} messages became dead letters")
