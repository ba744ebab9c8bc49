"""The leader's loop: read, send, move the cursors after the acknowledgements.

The next read runs beside what follows the send: with much to do beside the send itself, else beside the move of the
cursors. No send begins before the cursors of the one before it have moved.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from nightshift.relay.domain.errors import BrokerLost
from nightshift.relay.domain.polling import PollInterval
from nightshift.relay.domain.records import AcknowledgedOffsets, Batch, LastPublished, lay_out
from nightshift.relay.ports import Ack, AppendNotifications, Broker, Cursors, LeaderSession, LogReader
from nightshift.relay.usecases import metrics
from nightshift.relay.usecases.check import note_acks
from nightshift.relay.usecases.encode import RecordEncoder


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much goes in one batch, and after how much quiet the broker is looked at again (seconds).

    A look asks for the ends of the lanes; a check reads the records back.
    """

    max_events: int = 2000
    max_bytes: int = 4 * 1024 * 1024
    look_before_send_s: float = 0.25
    look_when_idle_s: float = 5.0
    check_when_idle_s: float = 300.0
    read_all_s: float = 0.05


class LeaderSignals:
    """What the heartbeat hears for the loop: the newest loss, and whether to stop."""

    def __init__(self) -> None:
        self.newest_loss = 0
        self.stopping = False


class Publisher:
    """Publishes one group of shards through one broker session."""

    def __init__(
        self,
        log: LogReader,
        encoder: RecordEncoder,
        watch: LeaderSignals,
        *,
        group: str,
        interval: PollInterval,
        limits: BatchLimits,
    ) -> None:
        self._log_reader = log
        self._encoder = encoder
        self._signals = watch
        self._group = group
        self._interval = interval
        self._limits = limits

    async def run(
        self,
        session: LeaderSession,
        broker: Broker,
        notifications: AppendNotifications,
        cursors: Cursors,
        acknowledged: AcknowledgedOffsets,
    ) -> None:
        """Until told to stop, or until it is time for a check. Raises BrokerLost, Unavailable, LeadershipLost."""
        clock = asyncio.get_running_loop().time
        positions, looked, checked, read_all = dict(cursors.positions), clock(), clock(), clock()
        wait, following = 0.0, await self._prepare(broker, positions)
        async with _Moving() as moving:
            while not self._signals.stopping:
                moving.check()
                if self._signals.newest_loss > cursors.newest_loss:
                    raise BrokerLost("another leader found it")
                batch = following
                if batch is None:
                    if clock() - checked > self._limits.check_when_idle_s:
                        return
                    if clock() - looked > self._limits.look_when_idle_s:
                        await self._look(broker, acknowledged)
                        looked = clock()
                    notified = await notifications.wait(wait)
                    if notified and clock() - read_all < self._limits.read_all_s:
                        # One probe instead of one a shard; what came without a hint waits for the next whole read.
                        following = await self._prepare(
                            broker, {shard: positions[shard] for shard in notified}
                        )
                    else:
                        read_all = clock()
                        following = await self._prepare(broker, positions)
                    wait = self._interval.following(
                        wait, found=following is not None, notifications=notifications.listening
                    )
                    continue
                await moving.finish()
                if clock() - looked > self._limits.look_before_send_s:
                    await self._look(broker, acknowledged)
                positions.update(batch.cursors)
                if batch.count >= self._limits.max_events // 4:
                    acks, following = await self._send(broker, batch, positions)
                else:
                    # Nothing else waits: a read beside the send would only take its time.
                    acks, following = await broker.send(batch.lanes), None
                looked = clock()
                published, lost = note_acks(acks, acknowledged)
                if lost is not None:
                    raise BrokerLost(lost)
                moving.begin(self._move(session, batch, published))

    async def _move(self, session: LeaderSession, batch: Batch, published: Sequence[LastPublished]) -> None:
        await session.move(batch.cursors, published)
        metrics.PUBLISHED.labels(self._group).inc(batch.count)

    async def _send(
        self, broker: Broker, batch: Batch, positions: Mapping[int, int]
    ) -> tuple[Sequence[Ack], Batch | None]:
        sending = asyncio.ensure_future(broker.send(batch.lanes))
        preparing = asyncio.ensure_future(self._prepare(broker, positions))
        try:
            acks, following = await asyncio.gather(sending, preparing)
        finally:
            sending.cancel()
            preparing.cancel()
            await asyncio.gather(sending, preparing, return_exceptions=True)
        return acks, following

    async def _prepare(self, broker: Broker, positions: Mapping[int, int]) -> Batch | None:
        rows = await self._log_reader.read(
            positions, max_events=self._limits.max_events, max_bytes=self._limits.max_bytes
        )
        return lay_out(await self._encoder.encode(rows, broker.lane)) if rows else None

    async def _look(self, broker: Broker, acknowledged: AcknowledgedOffsets) -> None:
        """Cheap: one round trip for all lanes. A lane that ends before what it acknowledged has lost it."""
        lanes = list(acknowledged.offsets)
        if not lanes:
            return
        offset_ranges = await broker.offset_ranges(lanes)
        for lane in lanes:
            offsets = offset_ranges.get(lane)
            if offsets is None or offsets.end <= acknowledged.offsets[lane][0]:
                raise BrokerLost(f"{lane.topic}[{lane.partition}] is shorter than what it acknowledged")


class _Moving:
    """The move of the cursors that is under way, at most one; when the block ends well, it is done."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def begin(self, move: Coroutine[Any, Any, None]) -> None:
        """Returns at once, when none is under way."""
        self._task = asyncio.create_task(move)

    def check(self) -> None:
        """Raise what went wrong with one that is over."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def finish(self) -> None:
        """Returns when it is done. Raises what went wrong."""
        if self._task is not None:
            await self._task

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.finish()
        elif self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
