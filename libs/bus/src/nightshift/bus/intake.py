"""Takes one subscription's messages from the client and settles each, in order per partition, before its offset goes.

A partition is a lane with its own task. Whatever makes a message wait (a retry, the ground that is away, a full
pool, a dead letter that cannot be sent) waits in the lane: its partition is paused, the client goes on polling, so
the member keeps its place in the group, the other partitions go on, and the backlog is seen as lag.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from nightshift.bus import metrics
from nightshift.bus.lane import Lane
from nightshift.bus.policy import ConsumerPolicy
from nightshift.bus.port import Inbound, Partition
from nightshift.bus.restart_guard import AttemptStore, RestartGuard
from nightshift.bus.settle import Settler
from nightshift.eventlog.errors import Transient

_log = structlog.get_logger(__name__)


class Source(Protocol):
    """What an intake asks of the client that feeds it."""

    def pause(self, partitions: Iterable[Partition]) -> None: ...

    def resume(self, partitions: Iterable[Partition]) -> None: ...

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
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
    """The lanes of one subscription's partitions, and the commits of what they settled."""

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
        self._lanes: dict[Partition, Lane] = {}
        self._settled: dict[Partition, int] = {}
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
        """Put a batch into its lanes. Returns when all is settled or those still at work are paused."""
        touched: dict[Partition, Lane] = {}
        for message in batch:
            partition = Partition(message.topic, message.partition)
            lane = touched.get(partition)
            if lane is None:
                lane = touched[partition] = self._lane(partition)
            lane.put(message)
        self.taken += len(batch)
        try:
            async with asyncio.timeout(self._policy.take_grace_s):
                for lane in touched.values():
                    await lane.idle.wait()
        except TimeoutError:
            self._pause([partition for partition, lane in touched.items() if not lane.idle.is_set()])

    def pass_to(self, positions: Mapping[Partition, int]) -> None:
        """Commit these positions of partitions without a message in hand.

        The client passes over aborted transactions and the markers of transactions without returning a message.
        """
        for partition, position in positions.items():
            lane = self._lane(partition)
            if lane.idle.is_set() and lane.next_offset != position:
                lane.next_offset = position
                self._note(partition, position)

    def progress(self, partition: Partition) -> Progress:
        """How far this partition is."""
        lane = self._lanes.get(partition)
        return _NO_PROGRESS if lane is None else Progress(lane.settled, lane.waiting, not lane.idle.is_set())

    @property
    def settled(self) -> int:
        """Messages settled since the start."""
        return self._settler.settled

    async def revoked(self, partitions: Iterable[Partition]) -> None:
        """These partitions go: finish what is in hand within the bound, commit it, forget the rest."""
        leaving = [self._lanes.pop(partition) for partition in list(partitions) if partition in self._lanes]
        if leaving:
            await asyncio.gather(*(lane.close(self._policy.drain_s) for lane in leaving))
        await self._commit_once()
        for lane in leaving:
            self._settled.pop(lane.partition, None)
        self._paused.set(sum(lane.paused for lane in self._lanes.values()))

    async def close(self) -> None:
        """Stop taking, finish what is in hand within the bound, commit. The client may be closed afterwards."""
        await self.revoked(list(self._lanes))
        if self._committer is not None:
            self._committer.cancel()
            await asyncio.gather(self._committer, return_exceptions=True)

    async def abandon(self) -> None:
        """End as if the process were killed: nothing is finished, nothing is committed. For tests."""
        self._source = None
        lanes, self._lanes = list(self._lanes.values()), {}
        if self._committer is not None:
            self._committer.cancel()
        await asyncio.gather(*(lane.close(0) for lane in lanes), return_exceptions=True)

    def _lane(self, partition: Partition) -> Lane:
        lane = self._lanes.get(partition)
        if lane is None:
            guard = None
            if self._attempts is not None:
                guard = RestartGuard(self._attempts, partition, self._alone)
            lane = Lane(
                partition,
                settle=self._settler.settle,
                on_settled=self._note,
                on_idle=self._resume,
                guard=guard,
            )
            self._lanes[partition] = lane
        return lane

    def _note(self, partition: Partition, next_offset: int) -> None:
        self._settled[partition] = next_offset
        self._dirty.set()

    def _pause(self, partitions: Sequence[Partition]) -> None:
        if self._source is None or not partitions:
            return
        self._source.pause(partitions)
        for partition in partitions:
            if (lane := self._lanes.get(partition)) is not None:
                lane.paused = True
        self._paused.set(sum(lane.paused for lane in self._lanes.values()))

    def _resume(self, lane: Lane) -> None:
        if lane.paused and self._source is not None and self._lanes.get(lane.partition) is lane:
            lane.paused = False
            self._source.resume([lane.partition])
            self._paused.set(sum(each.paused for each in self._lanes.values()))

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
