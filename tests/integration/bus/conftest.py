"""The real broker as the suite's rig."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import DeleteGroupsRequest
from tests.support.bus_suite import QUICK

from nightshift.bus.dead_letters import DeadLetters
from nightshift.bus.kafka.consumers import KafkaConsumers
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.kafka.progress import partition_progress
from nightshift.bus.kafka.reader import KafkaReader
from nightshift.bus.policy import ConsumerPolicy
from nightshift.bus.port import DependencyProbe, Subscription
from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.registry import CATALOGUE, Registry
from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress
from nightshift.eventlog.objects.memory import MemoryObjectStore


class KafkaRig:
    def __init__(self, kafka: KafkaAddress, topics: Topics, admin: AIOKafkaAdminClient) -> None:
        self.topics = topics
        self.objects = MemoryObjectStore()
        self.settings = KafkaSettings(
            kafka_bootstrap=kafka.bootstrap,
            kafka_idempotence=kafka.idempotence,
            kafka_adaptive_fetch=kafka.adaptive_fetch,
            topic_prefix=topics.prefix,
            kafka_session_timeout_s=None if kafka.idempotence else 1.5,
        )
        self.producer = KafkaProducer(self.settings)
        self._admin = admin

    def consumers(
        self,
        *subscriptions: Subscription,
        policy: ConsumerPolicy = QUICK,
        dependencies: DependencyProbe | None = None,
        registry: Registry = CATALOGUE,
        carry_limit: int = 1_048_576,
        max_poll_interval_s: float = 60.0,
    ) -> AbstractAsyncContextManager[KafkaConsumers]:
        more = {"kafka_max_message_bytes": carry_limit, "kafka_max_poll_interval_s": max_poll_interval_s}
        return KafkaConsumers(
            self.settings.model_copy(update=more),
            subscriptions,
            producer=self.producer,
            objects=self.objects,
            dependencies=dependencies,
            policy=policy,
            registry=registry,
        )

    async def crash(self, consumers: KafkaConsumers) -> None:
        await consumers.abandon()

    async def committed(self, group: str, topic: str) -> int:
        # aiokafka's admin cannot read the embedded broker's answer; a consumer outside the group can.
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka_bootstrap, group_id=group, enable_auto_commit=False
        )
        await consumer.start()
        try:
            parts = [TopicPartition(topic, partition) for partition in range(2)]
            consumer.assign(parts)
            return sum([await consumer.committed(part) or 0 for part in parts])
        finally:
            await consumer.stop()

    async def committed_at(self, group: str, topic: str, partition: int, offset: int) -> bool:
        progress = await partition_progress(self.settings, {group: topic})
        return progress[partition].committed == offset

    async def forget_offsets(self, group: str) -> None:
        """Delete the group with its offsets; aiokafka has the request but no method for it."""
        node = await self._admin.find_coordinator(group)
        answer = await self._admin._send_request(DeleteGroupsRequest([group]), node)
        assert [code for _, code in answer.results] == [0]

    def dead_letters(self) -> DeadLetters:
        return DeadLetters(
            KafkaReader(self.settings), topic=self.topics.dead_letter, known_topics=self.topics.all
        )


@pytest.fixture
async def rig(kafka: KafkaAddress, topics: Topics) -> AsyncIterator[KafkaRig]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    one = KafkaRig(kafka, topics, admin)
    try:
        yield one
    finally:
        await one.producer.close()
        await admin.close()
