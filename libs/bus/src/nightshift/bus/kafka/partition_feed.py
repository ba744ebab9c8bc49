"""Connects one FastStream subscriber with its BatchIntake: passes batches in, and pauses, resumes and commits for the
intake.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager

import structlog
from aiokafka import ConsumerRebalanceListener, ConsumerRecord
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from faststream.kafka.subscriber.usecase import BatchSubscriber

from nightshift.bus import metrics
from nightshift.bus.batch_intake import BatchIntake, Progress
from nightshift.bus.kafka import internals
from nightshift.bus.kafka.checked_consumer import CheckedConsumer
from nightshift.bus.kafka.strategy import BrokerStrategy
from nightshift.bus.port import Subscription, TopicPartition
from nightshift.bus.restart_guard import Attempts
from nightshift.eventlog.errors import Fault, Unavailable

_log = structlog.get_logger(__name__)

Records = tuple[ConsumerRecord, ...]

_ANSWER_S = 10.0


class Ends:
    """The end offset of each partition at the last check, to detect a broker that lost its data.

    A consumer's position beyond the end is no proof of a loss: the embedded broker reports an end that is too low.
    """

    def __init__(self) -> None:
        self._known: dict[KafkaPartition, int] = {}

    def shrunk(self, ends: Mapping[KafkaPartition, int]) -> list[KafkaPartition]:
        """Return the partitions whose end is lower than at the last check, and remember the new ends."""
        less = [partition for partition, end in ends.items() if end < self._known.get(partition, 0)]
        self._known |= ends
        return less

    def forget(self) -> None:
        """Forget all ends, because another member may own the partitions next."""
        self._known.clear()


class PartitionFeed(ConsumerRebalanceListener):  # type: ignore[misc]
    """Connects one FastStream subscriber with its BatchIntake. Set `subscriber` before the start."""

    subscriber: BatchSubscriber

    def __init__(
        self,
        subscription: Subscription,
        intake: BatchIntake,
        strategy: BrokerStrategy,
        on_assigned: Callable[[], None] = lambda: None,
    ) -> None:
        self.subscription = subscription
        self.intake = intake
        self.assigned = False
        self._strategy = strategy
        self._attempts = strategy.attempts(subscription.group)
        self._on_assigned = on_assigned
        self._attached = False
        self._uncommitted: set[KafkaPartition] = set()  # assigned, and not yet asked about
        self._taking = True
        self._ends = Ends()

    async def on_batch(self, records: Records) -> None:
        """Pass a batch from FastStream to the intake.

        Never raises, because FastStream would drop the error and the batch.
        """
        if not self._taking:
            return
        await self.intake.take(records)

    def prepare(self) -> None:
        """Make this feed the client of its intake. Call it before the subscriber starts."""
        if not self._attached:
            self._attached = True
            # A consumer that starts at the end never reads a message twice, so its restarts are not guarded.
            self.intake.attach(self, None if self.subscription.from_now else self)

    def started(self) -> None:
        """Record that the subscriber has started. A subscriber without a group has all partitions at once, without a
        rebalance.
        """
        self.assigned = self.assigned or self.subscription.from_now

    async def on_partitions_assigned(self, assigned: Iterable[KafkaPartition]) -> None:
        """Record that a rebalance has assigned partitions. aiokafka has resumed all paused partitions in it."""
        self.assigned = True
        self._uncommitted |= set(assigned)
        self._on_assigned()

    async def on_partitions_revoked(self, revoked: Iterable[KafkaPartition]) -> None:
        """Let the intake finish and commit before a rebalance, while this consumer still owns the partitions."""
        self.assigned = False
        self._uncommitted.clear()
        self._ends.forget()
        await self.intake.revoked(TopicPartition(each.topic, each.partition) for each in revoked)

    @property
    def name(self) -> str:
        """The name of the consumer group."""
        return self.subscription.group

    @property
    def progress(self) -> int:
        """The number of messages handled, skipped or dead-lettered since the start."""
        return self.intake.settled

    @property
    def partitions(self) -> Mapping[int, Progress]:
        """The progress of each assigned partition, by partition number, for the watchdog."""
        consumer = self.subscriber.consumer
        if consumer is None or not self.assigned:
            return {}
        assigned = (TopicPartition(each.topic, each.partition) for each in consumer.assignment())
        return {each.partition: self.intake.progress(each) for each in assigned}

    def check(self) -> None:
        """Raise the pending error of the group's coordination. Raises Fault when the coordination has ended.

        Other errors are logged only, because aiokafka retries them.
        """
        consumer = self.subscriber.consumer
        if consumer is None:
            return
        try:
            internals.check_coordination(consumer)
        except KafkaError as error:
            if internals.coordination_ended(consumer):
                raise Fault(f"the consumer of {self.name} has ended: {error}") from error
            _log.warning("coordination.failed", group=self.name, error=repr(error))

    async def unread(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Return how many offsets lie between the client's position and the end, for each of these partitions.

        Raises Unavailable. A partition whose end moved back is read from its beginning again, because the broker lost
        its data.
        """
        consumer = self.subscriber.consumer
        if consumer is None:
            return {}
        asked = [each for each in consumer.assignment() if each.partition in partitions]
        try:
            async with asyncio.timeout(5):
                ends = await consumer.end_offsets(asked)
                for partition in self._ends.shrunk(ends):
                    _log.warning("partition.shrunk", partition=str(partition))
                    await consumer.seek_to_beginning(partition)
                return {each.partition: end - await consumer.position(each) for each, end in ends.items()}
        except (KafkaError, TimeoutError, OSError) as error:
            raise Unavailable(f"the broker does not say where {self.name} ends: {error!r}") from error

    async def commit_beginnings(self) -> None:
        """Commit the first offset of newly assigned partitions that have no committed offset.

        Without a committed offset the broker shows no lag, and an autoscaler would not see the waiting records.
        """
        consumer, asked = self.subscriber.consumer, self._uncommitted
        if consumer is None or not asked:
            return
        self._uncommitted = set()
        try:
            async with asyncio.timeout(_ANSWER_S):
                committed = await internals.committed(consumer, asked)
                without = [each for each in asked if each not in committed]
                beginnings = await consumer.beginning_offsets(without) if without else {}
        except (KafkaError, TimeoutError, OSError) as error:
            _log.info("commit.delayed", group=self.name, error=repr(error))
            self._uncommitted |= asked
            return
        begin = {TopicPartition(*each): offset for each, offset in beginnings.items()}
        self.intake.begin_at({each: offset for each, offset in begin.items() if self._holds(each)})

    def commit_positions(self) -> None:
        """Commit the positions of idle partitions.

        They may lie after aborted transactions or transaction markers, for which the client returns no message.
        """
        consumer = self.subscriber.consumer
        if self.assigned and isinstance(consumer, CheckedConsumer):
            self.intake.pass_to(
                {TopicPartition(*each): offset for each, offset in consumer.returned_to.items()}
            )

    def measure_lag(self) -> None:
        """Set the metric of this consumer's lag.

        The lag is how many messages were not handled yet at the last fetch.
        """
        consumer, lag = self.subscriber.consumer, 0
        if consumer is not None and self.assigned:
            for each in consumer.assignment():
                end = consumer.highwater(each)
                handled = self.intake.handled_to(TopicPartition(each.topic, each.partition))
                if end is not None and handled is not None:
                    lag += max(end - handled, 0)
        metrics.LAG.labels(self.subscription.topic, self.subscription.group).set(lag)

    def stop_taking(self) -> None:
        """Ignore all further batches. The next member of the group reads them again."""
        self._taking = False

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._each_assigned(partitions, "pause")

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._each_assigned(partitions, "resume")
        self._strategy.resumed(self.subscription.group)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        consumer = self.subscriber.consumer
        if consumer is None or self.subscription.from_now:
            return
        mine = {
            KafkaPartition(*each): (offset, self._attempts.metadata(each, offset))
            for each, offset in offsets.items()
            if self._holds(each)
        }
        if not mine:
            return
        try:
            async with asyncio.timeout(_ANSWER_S):
                await consumer.commit(mine)
        except (CommitFailedError, IllegalStateError) as error:
            _log.info("commit.refused", group=self.subscription.group, error=str(error))
        except (KafkaError, TimeoutError, OSError) as error:
            raise Unavailable(f"offsets not committed: {error!r}") from error

    async def read_attempts(self, partition: TopicPartition) -> Attempts | None:
        consumer = self.subscriber.consumer
        if consumer is None:
            return None
        async with _bounded():
            return await self._attempts.read(consumer, partition)

    async def write_attempts(self, partition: TopicPartition, attempts: Attempts) -> None:
        consumer = self.subscriber.consumer
        if consumer is not None and self._holds(partition):
            async with _bounded():
                await self._attempts.write(consumer, partition, attempts)
            await self.commit({partition: attempts.offset})

    def _each_assigned(self, partitions: Iterable[TopicPartition], what: str) -> None:
        consumer = self.subscriber.consumer
        if consumer is None:
            return
        for each in partitions:
            if self._holds(each):
                getattr(consumer, what)(KafkaPartition(*each))

    def _holds(self, partition: TopicPartition) -> bool:
        consumer = self.subscriber.consumer
        return consumer is not None and KafkaPartition(*partition) in consumer.assignment()


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """Limit the time of a block to `_ANSWER_S` seconds. Raises Unavailable when it takes longer."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            yield
    except TimeoutError as error:
        raise Unavailable("the broker does not answer for attempts") from error
