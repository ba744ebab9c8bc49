"""The bus in memory as the suite's rig."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from tests.support.bus_suite import QUICK

from nightshift.bus.dead_letters import DeadLetters
from nightshift.bus.memory import MemoryBus, MemoryConsumers
from nightshift.bus.policy import ConsumerPolicy
from nightshift.bus.port import DependencyProbe, Subscription
from nightshift.contracts.registry import CATALOGUE, Registry
from nightshift.contracts.topics import Topics
from nightshift.eventlog.objects.memory import MemoryObjectStore


class MemoryRig:
    def __init__(self) -> None:
        self.topics = Topics("t")
        self.objects = MemoryObjectStore()
        self.bus = self.producer = MemoryBus()

    def consumers(
        self,
        *subscriptions: Subscription,
        policy: ConsumerPolicy = QUICK,
        dependencies: DependencyProbe | None = None,
        registry: Registry = CATALOGUE,
        carry_limit: int = 1_048_576,
        max_poll_interval_s: float = 60.0,
    ) -> AbstractAsyncContextManager[MemoryConsumers]:
        return self.bus.consumers(
            subscriptions,
            dead_letters=self.topics.dead_letter,
            objects=self.objects,
            dependencies=dependencies,
            policy=policy,
            registry=registry,
            carry_limit=carry_limit,
        )

    async def crash(self, consumers: Any) -> None:
        await consumers.crash()

    async def committed(self, group: str, topic: str) -> int:
        return sum(offset for each, offset in self.bus.committed(group).items() if each.topic == topic)

    async def forget_offsets(self, group: str) -> None:
        self.bus.forget_offsets(group)

    def dead_letters(self) -> DeadLetters:
        return DeadLetters(self.bus, topic=self.topics.dead_letter, known_topics=self.topics.all)


@pytest.fixture
def rig() -> MemoryRig:
    return MemoryRig()
