"""The loop of a leader: read a batch, send it, and move the cursors after the acknowledgement.

A send starts only after the cursors of the previous send have moved. So a leader that lost its session sends at most
one more batch. Under load the next batch is read during the send, otherwise while the cursors move.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from nightshift.relay.domain.errors import BrokerLost
from nightshift.relay.domain.poll_interval import next_wait
from nightshift.relay.domain.records import AcknowledgedOffsets, Batch, LastPublished, group_by_partition
from nightshift.relay.ports import Ack, AppendNotifications, Broker, Cursors, LeaderSession, LogReader
from nightshift.relay.usecases import metrics
from nightshift.relay.usecases.broker_check import note_acks
from nightshift.relay.usecases.record_encoder import RecordEncoder
from nightshift.relay.usecases.send_spans import send_spans

#: After so many seconds without a send, the ends of the partitions are compared before the next send.
_ENDS_BEFORE_SEND_S = 0.25
#: Seconds between two comparisons of the ends while there is nothing to send.
_ENDS_WHEN_IDLE_S = 5.0
#: After so many seconds without an event, the whole broker check runs again.
_CHECK_WHEN_IDLE_S = 300.0
#: Seconds between two reads of all shards while notifications name the shards to read.
_READ_ALL_S = 0.05


@dataclass(slots=True)
class LeaderSignals:
    """What other tasks tell the publishing loop: the number of the last data loss, and whether to stop."""

    newest_loss: int = 0
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes one group of shards through one broker session. A batch has at most `max_events` and `max_bytes`."""

    log: LogReader
    encoder: RecordEncoder
    signals: LeaderSignals
    _: KW_ONLY
    group: str
    max_events: int
    max_bytes: int

    async def run(
        self,
        session: LeaderSession,
        broker: Broker,
        notifications: AppendNotifications,
        cursors: Cursors,
        acknowledged: AcknowledgedOffsets,
    ) -> None:
        """Publish until the group stops or the broker check is due.

        Raises BrokerLost when the broker lost data, Unavailable when it does not answer, and LeadershipLost when
        another process may lead.
        """
        clock = asyncio.get_running_loop().time
        positions, compared, checked, read_all = dict(cursors.positions), clock(), clock(), clock()
        wait, following = 0.0, await self._prepare(broker, positions)
        moving = asyncio.ensure_future(asyncio.sleep(0))  # the running move of the cursors
        try:
            while not self.signals.stopping:
                if moving.done():
                    moving.result()
                if self.signals.newest_loss > cursors.newest_loss:
                    raise BrokerLost("another leader found that the broker lost data")
                batch = following
                if batch is None:
                    if clock() - checked > _CHECK_WHEN_IDLE_S:
                        break
                    if clock() - compared > _ENDS_WHEN_IDLE_S:
                        await self._compare_ends(broker, acknowledged)
                        compared = clock()
                    shards = await notifications.wait(wait)
                    if shards and clock() - read_all < _READ_ALL_S:
                        # Reads one index entry instead of one for each shard. The next read of all shards finds the
                        # rest.
                        following = await self._prepare(broker, {shard: positions[shard] for shard in shards})
                    else:
                        read_all = clock()
                        following = await self._prepare(broker, positions)
                    found = following is not None
                    wait = next_wait(wait, found=found, notified=notifications.listening)
                    continue
                await moving
                if clock() - compared > _ENDS_BEFORE_SEND_S:
                    await self._compare_ends(broker, acknowledged)
                positions.update(batch.cursors)
                with send_spans(batch.records):
                    if batch.count >= self.max_events // 4:
                        acks, following = await self._send_and_prepare(broker, batch, positions)
                    else:
                        # There is no backlog, and a read during the send would slow the send down.
                        acks, following = await broker.send(batch.records), None
                compared = clock()
                published, lost = note_acks(acks, acknowledged)
                if lost is not None:
                    raise BrokerLost(lost)
                moving = asyncio.ensure_future(self._move(session, batch, published))
            await moving
        finally:
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)

    async def _move(self, session: LeaderSession, batch: Batch, published: Sequence[LastPublished]) -> None:
        await session.move(batch.cursors, published)
        metrics.PUBLISHED.labels(self.group).inc(batch.count)

    async def _send_and_prepare(
        self, broker: Broker, batch: Batch, positions: Mapping[int, int]
    ) -> tuple[Sequence[Ack], Batch | None]:
        sending = asyncio.ensure_future(broker.send(batch.records))
        preparing = asyncio.ensure_future(self._prepare(broker, positions))
        try:
            acks, following = await asyncio.gather(sending, preparing)
        finally:
            sending.cancel()
            preparing.cancel()
            await asyncio.gather(sending, preparing, return_exceptions=True)
        return acks, following

    async def _prepare(self, broker: Broker, positions: Mapping[int, int]) -> Batch | None:
        """Read and encode the next batch. Returns None when there are no new events."""
        rows = await self.log.read(positions, max_events=self.max_events, max_bytes=self.max_bytes)
        return group_by_partition(await self.encoder.encode(rows, broker.partition_of)) if rows else None

    async def _compare_ends(self, broker: Broker, acknowledged: AcknowledgedOffsets) -> None:
        """Raise BrokerLost when a partition ends before its last acknowledged batch.

        Takes one round trip for all partitions.
        """
        partitions = list(acknowledged)
        held = await broker.offset_ranges(partitions)
        for partition in partitions:
            offsets = held.get(partition)
            if offsets is None or offsets.end <= acknowledged[partition][0]:
                raise BrokerLost(
                    f"{partition.topic}[{partition.partition}] is shorter than what it acknowledged"
                )
