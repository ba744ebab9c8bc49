"""Takes one subscription's messages from the client and settles each, in order per partition, before its offset goes.

A partition is a worker with its own task. Whatever makes a message wait (a retry, the ground that is away, a full
pool, a dead letter that cannot be sent) waits in the worker: its partition is paused, the client goes on polling, so
the member keeps its place in the group, the other partitions go on, and the backlog is seen as lag.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from nightshift.bus import metrics
from nightshift.bus.partition_worker import PartitionWorker
from nightshift.bus.policy import ConsumerPolicy
from nightshift.bus.port import Inbound, TopicPartition
from nightshift.bus.restart_guard import AttemptStore, RestartGuard
from nightshift.bus.settle import Settler
from nightshift.eventlog.errors import Transient

_log = structlog.get_logger(__name__)


class Source(Protocol):
    """What an intake asks of the client that feeds it."""

    def pause(self, partitions: Iterable[TopicPartition]) -> None: ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None: ...

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit the offset of the next message per partition.

        Raises Transient when it should be tried again; returns silently when the partitions are somebody else's now.
        """
        ...


class Progress(NamedTuple):
    """Messages of a partition settled since its assignment, and what becomes of the next.

    `waiting`: it waits on purpose, for room, a retry, a dependency or its dead letter. `busy`: a message is in hand.
    """

    settled: int
    waiting: bool
    busy: bool


_NO_PROGRESS = Progress(0, False, False)


class Intake:
    """The workers of one subscription's partitions, and the commits of what they settled."""

    def __init__(
        self,
        settler: Settler,
        policy: ConsumerPolicy,
        *,
        topic: str,
        group: str,
        alone: asyncio.Lock | None = None,
    ) -> None:
        """`alone` is shared by the intakes of a process (see RestartGuard)."""
        self._settler = settler
        self._policy = policy
        self._topic = topic
        self._group = group
        self._alone = alone or asyncio.Lock()
        self._attempts: AttemptStore | None = None
        self._source: Source | None = None
        self._workers: dict[TopicPartition, PartitionWorker] = {}
        self._settled: dict[TopicPartition, int] = {}
        self._dirty = asyncio.Event()
        self._committer: asyncio.Task[None] | None = None
        self._paused = metrics.PAUSED.labels(topic, group)
        self.taken = 0  # messages, since the start: the watchdog looks at it

    def attach(self, source: Source, attempts: AttemptStore | None = None) -> None:
        """Set the client that feeds this intake, before the first `take`. With `attempts`, restarts are guarded."""
        self._source = source
        self._attempts = attempts
        self._committer = asyncio.create_task(self._commit_as_settled(source), name=f"commit {self._group}")

    async def take(self, batch: Sequence[Inbound]) -> None:
        """Put a batch into its workers. Returns when all is settled or those still at work are paused."""
        touched: dict[TopicPartition, PartitionWorker] = {}
        for message in batch:
            partition = TopicPartition(message.topic, message.partition)
            worker = touched.get(partition)
            if worker is None:
                worker = touched[partition] = self._worker(partition)
            worker.put(message)
        self.taken += len(batch)
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
                self._note(partition, position)

    def progress(self, partition: TopicPartition) -> Progress:
        """How far this partition is."""
        worker = self._workers.get(partition)
        return (
            _NO_PROGRESS
            if worker is None
            else Progress(worker.settled, worker.waiting, not worker.idle.is_set())
        )

    @property
    def settled(self) -> int:
        """Messages settled since the start."""
        return self._settler.settled

    async def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions go: finish what is in hand within the bound, commit it, forget the rest."""
        leaving = [
            self._workers.pop(partition) for partition in list(partitions) if partition in self._workers
        ]
        if leaving:
            await asyncio.gather(*(worker.close(self._policy.drain_s) for worker in leaving))
        await self._commit_once()
        for worker in leaving:
            self._settled.pop(worker.partition, None)
        self._paused.set(sum(worker.paused for worker in self._workers.values()))

    async def close(self) -> None:
        """Stop taking, finish what is in hand within the bound, commit. The client may be closed afterwards."""
        await self.revoked(list(self._workers))
        if self._committer is not None:
            self._committer.cancel()
            await asyncio.gather(self._committer, return_exceptions=True)

    async def abandon(self) -> None:
        """End as if the process were killed: nothing is finished, nothing is committed. For tests."""
        self._source = None
        workers, self._workers = list(self._workers.values()), {}
        if self._committer is not None:
            self._committer.cancel()
        await asyncio.gather(*(worker.close(0) for worker in workers), return_exceptions=True)

    def _worker(self, partition: TopicPartition) -> PartitionWorker:
        worker = self._workers.get(partition)
        if worker is None:
            guard = None
            if self._attempts is not None:
                guard = RestartGuard(self._attempts, partition, self._alone)
            worker = PartitionWorker(
                partition,
                settle=self._settler.settle,
                on_settled=self._note,
                on_idle=self._resume,
                guard=guard,
            )
            self._workers[partition] = worker
        return worker

    def _note(self, partition: TopicPartition, next_offset: int) -> None:
        self._settled[partition] = next_offset
        self._dirty.set()

    def _pause(self, partitions: Sequence[TopicPartition]) -> None:
        if self._source is None or not partitions:
            return
        self._source.pause(partitions)
        for partition in partitions:
            if (worker := self._workers.get(partition)) is not None:
                worker.paused = True
        self._paused.set(sum(worker.paused for worker in self._workers.values()))

    def _resume(self, worker: PartitionWorker) -> None:
        if worker.paused and self._source is not None and self._workers.get(worker.partition) is worker:
            worker.paused = False
            self._source.resume([worker.partition])
            self._paused.set(sum(each.paused for each in self._workers.values()))

    async def _commit_as_settled(self, source: Source) -> None:
        """One commit holds all that was settled since the last: the busier, the fewer per message."""
        while True:
            await self._dirty.wait()
            await self._commit_once()
            await asyncio.sleep(self._policy.commit_every_s)

    async def _commit_once(self) -> None:
        self._dirty.clear()
        offsets, self._settled = self._settled, {}
        if not offsets or self._source is None:
            return
        try:
            await self._source.commit(offsets)
        except Transient as error:
            # Nothing is lost: what is settled is committed with the next, or handled again without effect.
            _log.info("commit waits", group=self._group, why=str(error))
            self._settled = {**offsets, **self._settled}
            self._dirty.set()
