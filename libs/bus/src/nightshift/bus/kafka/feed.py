"""Between one FastStream subscriber and its intake: batches and rebalances in, pauses and commits out."""

import asyncio
from collections.abc import Collection, Iterable, Mapping

import structlog
from aiokafka import ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from faststream.kafka.subscriber.usecase import BatchSubscriber

from nightshift.bus.intake import Intake, Progress
from nightshift.bus.kafka import internals
from nightshift.bus.kafka.attempts import PartitionAttempts
from nightshift.bus.kafka.checked_consumer import CheckedConsumer
from nightshift.bus.kafka.fetch_pace import FetchPace
from nightshift.bus.port import Partition
from nightshift.bus.restart_guard import Attempts
from nightshift.eventlog.errors import Fault, Unavailable

_log = structlog.get_logger(__name__)

Records = tuple[ConsumerRecord, ...]


class Ends:
    """Where partitions ended when we last looked.

    A position past the end proves nothing: the embedded broker tells the last batch's first offset plus one.
    """

    def __init__(self) -> None:
        self._known: dict[TopicPartition, int] = {}

    def shrunk(self, ends: Mapping[TopicPartition, int]) -> list[TopicPartition]:
        """Return the partitions that end before where they ended; remember where they end now."""
        less = [partition for partition, end in ends.items() if end < self._known.get(partition, 0)]
        self._known |= ends
        return less

    def forget(self) -> None:
        """Forget all: another member may have had the partitions."""
        self._known.clear()


class Feed(ConsumerRebalanceListener):  # type: ignore[misc]
    """Between one FastStream subscriber and its intake: batches and rebalances in, pauses and commits out."""

    subscriber: BatchSubscriber

    def __init__(
        self, intake: Intake, pace: FetchPace | None, attempts: PartitionAttempts, *, guarded: bool = True
    ) -> None:
        """`guarded`: count the processes that end at a message (see RestartGuard)."""
        self._attempts = attempts
        self._guarded = guarded
        self.intake = intake
        self.pace = pace
        self.assigned = False
        self._attached = False
        self._taking = True
        self._ends = Ends()

    async def on_batch(self, records: Records) -> None:
        """FastStream's handler. Never raises: an error here would be swallowed, and the batch passed by."""
        if not self._taking:
            return
        await self.intake.take(records)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """After each rebalance. aiokafka forgets pauses with the old assignment."""
        if not self._attached:
            self._attached = True
            self.intake.attach(self, self if self._guarded else None)
        self.assigned = True

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Before each rebalance, while the old assignment still holds."""
        self.assigned = False
        self._ends.forget()
        await self.intake.revoked(Partition(each.topic, each.partition) for each in revoked)

    @property
    def name(self) -> str:
        """The consumer group."""
        return self.subscriber.group_id or ""

    @property
    def progress(self) -> int:
        """Messages settled since the start."""
        return self.intake.settled

    @property
    def partitions(self) -> Mapping[int, Progress]:
        """See the watchdog."""
        consumer = self.subscriber.consumer
        if consumer is None or not self.assigned:
            return {}
        assigned = (Partition(each.topic, each.partition) for each in consumer.assignment())
        return {each.partition: self.intake.progress(each) for each in assigned}

    def check(self) -> None:
        """Take what the group's coordination has to tell; raises Fault when it is over."""
        consumer = self.subscriber.consumer
        if consumer is None:
            return
        try:
            internals.check_coordination(consumer)
        except KafkaError as error:
            if internals.coordination_ended(consumer):
                raise Fault(f"the consumer of {self.name} has ended: {error}") from error
            _log.warning("consumer group coordination", group=self.name, why=repr(error))

    async def unread(self, partitions: Collection[int]) -> Mapping[int, int]:
        """See the watchdog. A partition whose end goes back has lost its data: begin again there."""
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

    def commit_positions(self) -> None:
        """Commit what the client passed over without returning a message."""
        consumer = self.subscriber.consumer
        if self.assigned and isinstance(consumer, CheckedConsumer):
            self.intake.pass_to({Partition(*each): offset for each, offset in consumer.returned_to.items()})

    def stop_taking(self) -> None:
        """What the client hands over from now on is left for the next member."""
        self._taking = False

    def pause(self, partitions: Iterable[Partition]) -> None:
        self._each_assigned(partitions, "pause")

    def resume(self, partitions: Iterable[Partition]) -> None:
        self._each_assigned(partitions, "resume")
        if self.pace is not None:
            self.pace.ring()

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        consumer = self.subscriber.consumer
        if consumer is None:
            return
        mine = {
            TopicPartition(*each): (offset, self._attempts.metadata(each, offset))
            for each, offset in offsets.items()
            if self._holds(each)
        }
        if not mine:
            return
        try:
            async with asyncio.timeout(10):
                await consumer.commit(mine)
        except (CommitFailedError, IllegalStateError) as error:
            _log.info("commit.refused", group=self.subscriber.group_id, error=str(error))
        except (KafkaError, TimeoutError, OSError) as error:
            raise Unavailable(f"offsets not committed: {error!r}") from error

    async def read_attempts(self, partition: Partition) -> Attempts | None:
        consumer = self.subscriber.consumer
        return None if consumer is None else await self._attempts.read(consumer, partition)

    async def write_attempts(self, partition: Partition, attempts: Attempts) -> None:
        consumer = self.subscriber.consumer
        if consumer is not None and self._holds(partition):
            await self._attempts.write(consumer, partition, attempts)
            await self.commit({partition: attempts.offset})

    def _each_assigned(self, partitions: Iterable[Partition], what: str) -> None:
        consumer = self.subscriber.consumer
        if consumer is None:
            return
        for each in partitions:
            if self._holds(each):
                getattr(consumer, what)(TopicPartition(*each))

    def _holds(self, partition: Partition) -> bool:
        consumer = self.subscriber.consumer
        return consumer is not None and TopicPartition(*partition) in consumer.assignment()
