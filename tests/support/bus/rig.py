"""What the promises of the bus are tested with: a rig per adapter, messages, and handlers that remember."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import uuid4

from nightshift.bus.dead_letter_codec import DeadLetter
from nightshift.bus.dead_letters import DeadLetters
from nightshift.bus.policy import ConsumerPolicy, RetryPolicy
from nightshift.bus.port import Consumers, DependencyProbe, Outgoing, Producer, Subscription
from nightshift.contracts import ids
from nightshift.contracts.cloudevents import encode_fact, encode_request
from nightshift.contracts.envelope import Envelope, Message, fact_source
from nightshift.contracts.events.build import CheckpointSaved
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.model import Event
from nightshift.contracts.registry import CATALOGUE, Registry, encode, wire_name
from nightshift.contracts.topics import Topics
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import RecordedEvent

#: Quick retries: the tests check order and outcome, not the length of delays.
QUICK = ConsumerPolicy(
    retry=RetryPolicy(attempts=3, base_s=0.01, cap_s=0.05, dependency_cap_s=0.05, dependency_doubt_s=0.5),
    take_grace_s=0.05,
    commit_every_s=0.01,
    drain_s=2.0,
)


class Rig(Protocol):
    """One broker, ready for one test."""

    topics: Topics
    objects: MemoryObjectStore
    producer: Producer

    def consumers(
        self,
        *subscriptions: Subscription,
        policy: ConsumerPolicy = QUICK,
        dependencies: DependencyProbe | None = None,
        registry: Registry = CATALOGUE,
        carry_limit: int = 1_048_576,
        max_poll_interval_s: float = 60.0,
    ) -> AbstractAsyncContextManager[Consumers]: ...

    async def crash(self, consumers: Consumers) -> None:
        """End them as SIGKILL would: nothing drained, nothing committed any more."""
        ...

    async def committed(self, group: str, topic: str) -> int:
        """Sum of the committed offsets over the partitions."""
        ...

    async def forget_offsets(self, group: str) -> None: ...

    def dead_letters(self) -> DeadLetters: ...


def fact(build: str, version: int, event: Event | None = None) -> Message:
    """A fact as the relay sends it; its turn is its version."""
    event = event or CheckpointSaved(turn=version)
    cause = ids.request_cause("test", build)
    envelope = Envelope(
        id=str(ids.event_id(cause, event.type, version)),
        type=wire_name(event.type, event.version),
        source=fact_source("orchestrator/test"),
        subject=build,
        time=datetime.now(UTC),
        sequence=version,
        correlation_id=build,
        causation_id=cause,
    )
    return encode_fact(envelope, encode(event))


def request(build: str, **fields: Any) -> Message:
    """A build request as a producer outside sends it."""
    event = BuildRequested(
        build_id=build,
        project_id="p1",
        account_id="a1",
        idea_brief=fields.pop("idea_brief", "an app"),
        **fields,
    )
    return encode_request(event, id=str(uuid4()), source="/test")


@dataclass
class Seen:
    """A handler that remembers what it was given, and may be told to fail."""

    events: list[RecordedEvent] = field(default_factory=list)
    fail: Callable[[RecordedEvent], BaseException | None] = lambda _: None
    calls: int = 0

    async def __call__(self, event: RecordedEvent) -> None:
        self.calls += 1
        error = self.fail(event)
        if error is not None:
            raise error
        self.events.append(event)

    @property
    def subjects(self) -> list[str]:
        return [event.subject for event in self.events]

    def versions(self) -> dict[str, list[int]]:
        found = defaultdict(list)
        for event in self.events:
            found[event.subject].append(event.version)
        return dict(found)


class BusPromises:
    """Subscriptions and messages that every suite needs."""

    def facts(self, rig: Rig, handler: Any, group: str = "g", **more: Any) -> Subscription:
        return Subscription(
            rig.topics.build, f"{rig.topics.prefix}.{group}", {CheckpointSaved: handler}, **more
        )

    def requests(self, rig: Rig, handler: Any, group: str = "r", **more: Any) -> Subscription:
        return Subscription(
            rig.topics.requests, f"{rig.topics.prefix}.{group}", {BuildRequested: handler}, **more
        )

    async def send(self, rig: Rig, topic: str, *messages: Message) -> None:
        await rig.producer.send([Outgoing.of(topic, message) for message in messages])

    async def _dead_letters(self, rig: Rig, count: int) -> list[DeadLetter] | None:
        found = [each.dead_letter for each in await rig.dead_letters().list()]
        return found if len(found) == count else None

    def _apart(self, rig: Rig) -> tuple[int, int]:
        return 0, 1

    def _part(self, rig: Rig) -> int:
        return 0


class Gate:
    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.waiters = 0

    @property
    def full(self) -> bool:
        return not self._open.is_set()

    async def room(self) -> None:
        self.waiters += 1
        await self._open.wait()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()


Parts = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]


def parts(message: Message) -> Parts:
    return message.key, message.value, message.headers
