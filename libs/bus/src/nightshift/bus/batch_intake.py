"""Distributes the batches of one subscription to workers, one for each partition.

A worker processes the messages of its partition in order. When a message has to wait (for a retry, a dependency, a free
worker or its dead letter), only its partition is paused. The client keeps polling, so it stays a member of its group
and the other partitions continue. The backlog of the paused partition shows as lag.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from nightshift.bus import metrics
from nightshift.bus.message_processor import MessageProcessor
from nightshift.bus.offset_committer import CommitTarget, OffsetCommitter
from nightshift.bus.partition_worker import PartitionWorker
from nightshift.bus.policy import ConsumerPolicy
from nightshift.bus.port import Inbound, TopicPartition
from nightshift.bus.restart_guard import AttemptStore, RestartGuard


class ConsumerClient(CommitTarget, Protocol):
    """The Kafka client that delivers batches to a BatchIntake. The intake pauses and resumes partitions through it."""

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Stop delivering messages of these partitions until they are resumed."""
        ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver messages of these partitions again."""
        ...


class Progress(NamedTuple):
    """The progress of one assigned partition, for the watchdog.

    `settled` counts the messages that were handled, skipped or dead-lettered since the partition was assigned. `busy`
    is True while a message is being processed. `waiting` is True while that message waits on purpose: for room in the
    worker pool, a retry, a dependency or its dead letter.
    """

    settled: int
    waiting: bool
    busy: bool


_NO_PROGRESS = Progress(0, waiting=False, busy=False)


class BatchIntake:
    """Passes the messages of each fetched batch to the workers of their partitions, and commits the offsets of settled
    ones.

    A message is settled when it was handled, skipped or dead-lettered.
    """

    def __init__(
        self,
        processor: MessageProcessor,
        policy: ConsumerPolicy,
        *,
        topic: str,
        group: str,
        alone: asyncio.Lock | None = None,
    ) -> None:
        """Create the intake of one subscription.

        All intakes of a process share the lock `alone`. A RestartGuard holds it while it handles a suspicious message,
        so that no other message runs then.
        """
        self._processor = processor
        self._policy = policy
        self._group = group
        self._alone = alone or asyncio.Lock()
        self._attempts: AttemptStore | None = None
        self._client: ConsumerClient | None = None
        self._committer: OffsetCommitter | None = None
        self._workers: dict[TopicPartition, PartitionWorker] = {}
        self._paused = metrics.PAUSED.labels(topic, group)

    def attach(self, client: ConsumerClient, attempts: AttemptStore | None = None) -> None:
        """Set the client that delivers the batches; call it before the first `take`.

        If `attempts` is given, each new worker starts with a RestartGuard, which detects messages that end the
        process.
        """
        self._client = client
        self._attempts = attempts
        self._committer = OffsetCommitter(client, self._group, every_s=self._policy.commit_every_s)

    async def take(self, batch: Sequence[Inbound]) -> None:
        """Pass the messages of a batch to the workers of their partitions.

        Returns when all messages are settled, at the latest after `take_grace_s` seconds. Partitions that are still
        busy then are paused.
        """
        touched: dict[TopicPartition, PartitionWorker] = {}
        for message in batch:
            partition = TopicPartition(message.topic, message.partition)
            worker = touched.get(partition)
            if worker is None:
                worker = touched[partition] = self._worker(partition)
            worker.put(message)
        try:
            async with asyncio.timeout(self._policy.take_grace_s):
                for worker in touched.values():
                    await worker.idle.wait()
        except TimeoutError:
            self._pause([partition for partition, worker in touched.items() if not worker.idle.is_set()])

    def pass_to(self, positions: Mapping[TopicPartition, int]) -> None:
        """Commit the client's position (`positions`) in each partition whose worker is idle.

        The client reads over aborted transactions and transaction markers without delivering a message. Without this
        commit they would count as lag.
        """
        for partition, position in positions.items():
            worker = self._worker(partition)
            if worker.idle.is_set() and worker.next_offset != position:
                worker.next_offset = position
                self._settled(partition, position)

    def begin_at(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit these first offsets of partitions, except where a message has been settled already."""
        for partition, offset in offsets.items():
            if self._worker(partition).settled == 0:
                self._settled(partition, offset)

    def progress(self, partition: TopicPartition) -> Progress:
        """Return the progress of this partition. Without a worker for it: nothing settled, not busy, not waiting."""
        worker = self._workers.get(partition)
        if worker is None:
            return _NO_PROGRESS
        return Progress(worker.settled, worker.waiting, not worker.idle.is_set())

    def handled_to(self, partition: TopicPartition) -> int | None:
        """Return the offset of the next message to handle in this partition, or None before a message was fetched."""
        worker = self._workers.get(partition)
        if worker is None:
            return None
        return worker.first_offset if worker.next_offset is None else worker.next_offset

    @property
    def settled(self) -> int:
        """The number of messages handled, skipped or dead-lettered since the process started."""
        return self._processor.settled

    async def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Give up these partitions, because the group assigns them to another member.

        Waits up to `drain_s` seconds for the messages being processed, commits the settled offsets, and drops the
        queued messages.
        """
        leaving = [self._workers.pop(each) for each in list(partitions) if each in self._workers]
        if leaving:
            await asyncio.gather(*(worker.close(self._policy.drain_s) for worker in leaving))
        if self._committer is not None:
            await self._committer.commit()
            for worker in leaving:
                self._committer.forget(worker.partition)
        self._count_paused()

    async def close(self) -> None:
        """Give up all partitions, like `revoked`, and stop committing. Close the client only afterwards."""
        await self.revoked(list(self._workers))
        if self._committer is not None:
            await self._committer.close()

    async def abandon(self) -> None:
        """Stop as if the process were killed: finish no message and commit no offset. For tests."""
        self._client = None
        workers, self._workers = list(self._workers.values()), {}
        if self._committer is not None:
            await self._committer.close()
        await asyncio.gather(*(worker.close(0) for worker in workers), return_exceptions=True)

    def _worker(self, partition: TopicPartition) -> PartitionWorker:
        worker = self._workers.get(partition)
        if worker is None:
            guard = None
            if self._attempts is not None:
                guard = RestartGuard(self._attempts, partition, self._alone)
            worker = PartitionWorker(
                partition,
                process=self._processor.process,
                on_settled=self._settled,
                on_idle=self._resume,
                guard=guard,
            )
            self._workers[partition] = worker
        return worker

    def _settled(self, partition: TopicPartition, next_offset: int) -> None:
        if self._committer is not None:
            self._committer.settled(partition, next_offset)

    def _pause(self, partitions: Sequence[TopicPartition]) -> None:
        if self._client is None or not partitions:
            return
        self._client.pause(partitions)
        for partition in partitions:
            if (worker := self._workers.get(partition)) is not None:
                worker.paused = True
        self._count_paused()

    def _resume(self, worker: PartitionWorker) -> None:
        if worker.paused and self._client is not None and self._workers.get(worker.partition) is worker:
            worker.paused = False
            self._client.resume([worker.partition])
            self._count_paused()

    def _count_paused(self) -> None:
        self._paused.set(sum(worker.paused for worker in self._workers.values()))
