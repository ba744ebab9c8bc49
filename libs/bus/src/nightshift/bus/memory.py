"""The bus in memory, for tests: topics, consumer groups, rebalances, and redelivery of uncommitted messages.

Only the broker is simulated. Messages pass through the same BatchIntake as on Kafka.
"""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from nightshift.bus.batch_intake import BatchIntake
from nightshift.bus.dead_letter_publisher import DeadLetterPublisher
from nightshift.bus.dispatch import Dispatcher
from nightshift.bus.message_processor import MessageProcessor
from nightshift.bus.policy import ConsumerPolicy
from nightshift.bus.port import DependencyProbe, Outgoing, Sent, Subscription, TopicPartition
from nightshift.bus.restart_guard import Attempts
from nightshift.contracts.registry import CATALOGUE, Registry
from nightshift.eventlog.objects.port import ObjectStore


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in a partition of the in-memory broker."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(slots=True)
class _Group:
    members: list["_Member"] = field(default_factory=list)
    committed: dict[TopicPartition, int] = field(default_factory=dict)
    attempts: dict[TopicPartition, Attempts] = field(default_factory=dict)


class MemoryBus:
    """An in-memory broker. It is also a Producer that sends to this broker."""

    def __init__(self, *, partitions: int = 2) -> None:
        self._partitions = partitions
        self._logs: dict[TopicPartition, list[Stored]] = {}
        self._groups: dict[str, _Group] = {}
        self._turn = 0

    async def send(self, messages: Sequence[Outgoing]) -> tuple[Sent, ...]:
        """Append the messages to their partitions and wake the members of all groups."""
        sent = []
        for message in messages:
            partition = TopicPartition(message.topic, self._place(message))
            log = self._logs.setdefault(partition, [])
            now = int(time.time() * 1000)
            log.append(Stored(*partition, len(log), now, message.key, message.value, message.headers))
            sent.append(Sent(*partition, len(log) - 1))
        for group in self._groups.values():
            for member in group.members:
                member.arrived.set()
        return tuple(sent)

    async def read(self, topic: str) -> AsyncIterator[Stored]:
        """Yield the messages that the topic has at the time of the call."""
        for message in self.messages(topic):
            yield message

    def messages(self, topic: str) -> list[Stored]:
        """Return all messages of a topic, ordered by partition and offset."""
        return [
            message
            for at in range(self._partitions)
            for message in self._logs.get(TopicPartition(topic, at), [])
        ]

    def committed(self, group: str) -> Mapping[TopicPartition, int]:
        """Return the committed offsets of a consumer group."""
        return self._groups[group].committed

    def forget_offsets(self, group: str) -> None:
        """Delete the group's committed offsets, as if they had expired.

        Its members then start at the first message again.
        """
        self._groups.setdefault(group, _Group()).committed.clear()

    def consumers(
        self,
        subscriptions: Sequence[Subscription],
        *,
        dead_letters: str,
        objects: ObjectStore,
        dependencies: DependencyProbe | None = None,
        policy: ConsumerPolicy | None = None,
        registry: Registry = CATALOGUE,
        carry_limit: int = 1_048_576,
    ) -> "MemoryConsumers":
        """Return the consumers of one simulated process, not started.

        Starting them adds one member to the group of each subscription.
        """
        policy = policy or ConsumerPolicy()
        publisher = DeadLetterPublisher(
            self, objects, topic=dead_letters, carry_limit=carry_limit, retry=policy.retry
        )
        members, alone = [], asyncio.Lock()
        for subscription in subscriptions:
            dispatcher = Dispatcher(
                subscription, objects=objects, seen_subjects=policy.seen_subjects, registry=registry
            )
            members.append(
                _Member(
                    self,
                    subscription,
                    policy,
                    publisher=publisher,
                    dispatcher=dispatcher,
                    dependencies=dependencies,
                    alone=alone,
                )
            )
        return MemoryConsumers(self, members)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def join(self, member: "_Member") -> None:
        """Add a member to its group and assign the partitions again."""
        group = self._groups.setdefault(member.group, _Group())
        await self._rebalance(group, [*group.members, member])

    async def leave(self, member: "_Member") -> None:
        """Remove a member from its group and assign its partitions to the others."""
        group = self._groups[member.group]
        await self._rebalance(group, [each for each in group.members if each is not member])

    def fetch(self, partition: TopicPartition, offset: int, limit: int) -> list[Stored]:
        """Return up to `limit` messages of a partition, starting at this offset."""
        return self._logs.get(partition, [])[offset : offset + limit]

    def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Store the committed offsets of a group."""
        self._groups[group].committed.update(offsets)

    def attempts(self, group: str) -> dict[TopicPartition, Attempts]:
        """Return the attempts that the group has stored for each partition (see RestartGuard)."""
        return self._groups[group].attempts

    async def _rebalance(self, group: _Group, members: list["_Member"]) -> None:
        for member in group.members:
            await member.revoke()
        group.members = members
        for index, member in enumerate(members):
            mine = [
                TopicPartition(member.topic, at)
                for at in range(self._partitions)
                if at % len(members) == index
            ]
            member.assign({partition: group.committed.get(partition, 0) for partition in mine})

    def _place(self, message: Outgoing) -> int:
        if message.partition is not None:
            return message.partition
        if message.key is None:
            self._turn += 1
            return self._turn % self._partitions
        return zlib.crc32(message.key) % self._partitions


class MemoryConsumers:
    """The running consumers of one simulated process, on a MemoryBus. Implements the port Consumers."""

    def __init__(self, bus: MemoryBus, members: Sequence["_Member"]) -> None:
        self._bus = bus
        self._members = members

    @property
    def assigned(self) -> bool:
        """Whether every subscription has received its partitions."""
        return all(member.assigned for member in self._members)

    async def crash(self) -> None:
        """Stop as if the process received SIGKILL: finish no message and commit no offset."""
        for member in self._members:
            await member.crash()
            await self._bus.leave(member)

    async def __aenter__(self) -> Self:
        for member in self._members:
            member.start()
            await self._bus.join(member)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for member in self._members:
            if not member.crashed:
                await member.stop()
                await self._bus.leave(member)


class _Member:
    """One subscription of one simulated process. It fetches from its partitions and passes batches to its
    BatchIntake.
    """

    def __init__(
        self,
        bus: MemoryBus,
        subscription: Subscription,
        policy: ConsumerPolicy,
        *,
        publisher: DeadLetterPublisher,
        dispatcher: Dispatcher,
        dependencies: DependencyProbe | None,
        alone: asyncio.Lock,
        batch: int = 100,
    ) -> None:
        self.topic, self.group = subscription.topic, subscription.group
        self.arrived = asyncio.Event()
        self.assigned = False
        self.crashed = False
        self._bus = bus
        self._batch = batch
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        processor = MessageProcessor(
            dispatcher,
            publisher,
            policy.retry,
            topic=self.topic,
            group=self.group,
            gate=subscription.gate,
            dependencies=dependencies,
        )
        self._intake = BatchIntake(processor, policy, topic=self.topic, group=self.group, alone=alone)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._intake.attach(self, self)
        self._task = asyncio.create_task(self._poll(), name=f"member of {self.group}")

    def assign(self, positions: dict[TopicPartition, int]) -> None:
        self._positions, self._paused, self.assigned = positions, set(), True
        self.arrived.set()

    async def revoke(self) -> None:
        gone, self._positions = list(self._positions), {}
        self.assigned = False
        if not self.crashed:
            await self._intake.revoked(gone)

    async def stop(self) -> None:
        await self._end()
        await self._intake.close()

    async def crash(self) -> None:
        self.crashed = True
        await self._end()
        await self._intake.abandon()

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.difference_update(partitions)
        self.arrived.set()

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        if not self.crashed:
            self._bus.commit(self.group, offsets)

    async def read_attempts(self, partition: TopicPartition) -> Attempts | None:
        return self._bus.attempts(self.group).get(partition)

    async def write_attempts(self, partition: TopicPartition, attempts: Attempts) -> None:
        if not self.crashed:
            self._bus.attempts(self.group)[partition] = attempts
            await self.commit({partition: attempts.offset})

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _poll(self) -> None:
        while True:
            self.arrived.clear()
            batch: list[Stored] = []
            for partition, position in list(self._positions.items()):
                if partition not in self._paused:
                    found = self._bus.fetch(partition, position, self._batch)
                    self._positions[partition] = position + len(found)
                    batch += found
            if batch:
                await self._intake.take(batch)
            else:
                await self.arrived.wait()
