"""Takes one subscription's batches from the client. Each partition is processed in order by a worker of its own.

A message waits in its worker: for a retry, an unavailable dependency, a full pool, or its dead letter. Its partition is
paused and the client goes on polling. So the member keeps its place in the group, the other partitions continue, and
the backlog is seen as lag.
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
    """The client that supplies an intake with batches."""

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Return no more messages of these partitions."""
        ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Return messages of these partitions again."""
        ...


class Progress(NamedTuple):
    """Messages of a partition settled since its assignment, and the state of the next.

    `waiting`: it waits on purpose, for room, a retry, a dependency or its dead letter. `busy`: it is in hand.
    """

    settled: int
    waiting: bool
    busy: bool


_NO_PROGRESS = Progress(0, waiting=False, busy=False)


class BatchIntake:
    """Passes each fetched batch of one subscription to the worker of its partition."""

    def __init__(
        self,
        processor: MessageProcessor,
        policy: ConsumerPolicy,
        *,
        topic: str,
        group: str,
        alone: asyncio.Lock | None = None,
    ) -> None:
        """`alone` is shared by the intakes of a process (see RestartGuard)."""
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
        """Set the client that feeds this intake, before the first `take`. With `attempts`, restarts are guarded."""
        self._client = client
        self._attempts = attempts
        self._committer = OffsetCommitter(client, self._group, every_s=self._policy.commit_every_s)

    async def take(self, batch: Sequence[Inbound]) -> None:
        """Give a batch to its workers. Return when all is settled or the partitions still busy are paused."""
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
        """Commit these positions of partitions without a message in hand.

        The client passes over aborted transactions and the markers of transactions without returning a message.
        """
        for partition, position in positions.items():
            worker = self._worker(partition)
            if worker.idle.is_set() and worker.next_offset != position:
                worker.next_offset = position
                self._settled(partition, position)

    def begin_at(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit the first offset of partitions of which nothing is settled yet."""
        for partition, offset in offsets.items():
            if self._worker(partition).settled == 0:
                self._settled(partition, offset)

    def progress(self, partition: TopicPartition) -> Progress:
        """Return how far this partition is."""
        worker = self._workers.get(partition)
        if worker is None:
            return _NO_PROGRESS
        return Progress(worker.settled, worker.waiting, not worker.idle.is_set())

    @property
    def settled(self) -> int:
        """Messages settled since the start."""
        return self._processor.settled

    async def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Finish the messages in hand of these partitions within the bound, commit, and drop the rest."""
        leaving = [self._workers.pop(each) for each in list(partitions) if each in self._workers]
        if leaving:
            await asyncio.gather(*(worker.close(self._policy.drain_s) for worker in leaving))
        if self._committer is not None:
            await self._committer.commit()
            for worker in leaving:
                self._committer.forget(worker.partition)
        self._count_paused()

    async def close(self) -> None:
        """Finish the messages in hand within the bound and commit. The client may be closed afterwards."""
        await self.revoked(list(self._workers))
        if self._committer is not None:
            await self._committer.close()

    async def abandon(self) -> None:
        """End as if the process were killed: finish nothing, commit nothing. For tests."""
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
