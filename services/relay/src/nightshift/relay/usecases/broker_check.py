"""Compares Kafka with the log before anything is published.

Kafka must have what it acknowledged, and the log must have every fact that Kafka has.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog

from nightshift.bus.port import TopicPartition
from nightshift.contracts import topics as names
from nightshift.relay.domain.data_loss import OffsetRange, can_be_read, data_loss
from nightshift.relay.domain.divergence import BrokerFact, diverged, explanation, token
from nightshift.relay.domain.errors import Diverged
from nightshift.relay.domain.records import AcknowledgedOffsets, LastPublished, group_by_partition
from nightshift.relay.ports import Ack, Broker, BrokerRecord, Cursors, LeaderSession, LogReader
from nightshift.relay.usecases import metrics
from nightshift.relay.usecases.record_encoder import RecordEncoder

_log = structlog.get_logger(__name__)

#: The most rows in one read of the log, and the most event ids in one query.
_PAGE = 500


class BrokerCheck:
    """Compares Kafka with the log for one group of shards, and publishes again what Kafka lost."""

    def __init__(
        self, log: LogReader, encoder: RecordEncoder, *, group: str, accept_divergence: str | None
    ) -> None:
        """Create the check. `accept_divergence` is the token of a divergence that a person decided to accept."""
        self._log = log
        self._encoder = encoder
        self._group = group
        self._accepted = accept_divergence

    async def run(self, session: LeaderSession, broker: Broker) -> tuple[Cursors, AcknowledgedOffsets]:
        """Compare Kafka with the log, publish again what Kafka lost, and return where to continue publishing.

        Raises Diverged when Kafka has facts that the log does not have, because a person must decide then.
        """
        cursors = await session.cursors()
        published = await session.last_published()
        lost = await self._compare(session, broker, published, cursors.newest_loss)
        acknowledged = AcknowledgedOffsets()
        if lost is None:
            acknowledged.update({one.partition: (one.offset, one.offset) for one in published})
        else:
            await note_loss(session, lost, seen=cursors.newest_loss, group=self._group)
        cursors = await session.cursors()
        if cursors.behind:
            await self._publish_again(session, broker, cursors, acknowledged)
        return cursors, acknowledged

    async def _compare(
        self, session: LeaderSession, broker: Broker, published: Sequence[LastPublished], newest_loss: int
    ) -> str | None:
        """Return why Kafka must have lost data, or None when it did not.

        Raises Diverged when Kafka has facts that the log does not have.
        """
        last = {one.partition: one for one in published}
        held = await broker.offset_ranges(list({*broker.partitions(), *last}))
        found: dict[TopicPartition, str | None] = {}
        ends: dict[TopicPartition, BrokerFact] = {}
        unknown: list[BrokerFact] = []
        page: list[BrokerFact] = []
        async for record in broker.read(_to_read(last, held)):
            before = last.get(record.partition)
            if before is not None and record.offset == before.offset:
                found[record.partition] = _text(record, names.ID)
                continue
            fact = _fact(record)
            if fact is not None:
                ends[fact.partition] = fact
                page.append(fact)
            if len(page) >= _PAGE:
                unknown += await self._unknown(page)
                page = []
        unknown += await self._unknown(page)
        if unknown:
            await self._decide(session, tuple(unknown), ends, newest_loss)
        reasons = (data_loss(one, held, found.get(one.partition)) for one in published)
        return next((reason for reason in reasons if reason is not None), None)

    async def _unknown(self, facts: list[BrokerFact]) -> tuple[BrokerFact, ...]:
        """Return those facts that the log does not have."""
        return diverged(facts, await self._log.known([fact.event_id for fact in facts])) if facts else ()

    async def _decide(
        self,
        session: LeaderSession,
        unknown: tuple[BrokerFact, ...],
        ends: dict[TopicPartition, BrokerFact],
        newest_loss: int,
    ) -> None:
        """Accept the divergence `unknown` if a person has accepted exactly this one. Otherwise raise Diverged."""
        if self._accepted != token(unknown):
            message, hint = explanation(unknown)
            raise Diverged(message, hint=hint)
        _log.warning("log.divergence_accepted", facts=len(unknown), token=self._accepted)
        await session.note_loss(f"divergence {self._accepted} accepted", newest_loss)
        await session.move(
            {},
            [LastPublished(f.partition, f.offset, f.event_id, f.subject, f.version) for f in ends.values()],
        )

    async def _publish_again(
        self, session: LeaderSession, broker: Broker, cursors: Cursors, acknowledged: AcknowledgedOffsets
    ) -> None:
        """Publish again, after a data loss, the events that `LogReader.read_unfinished` returns.

        Only the shards in `cursors.behind` are published, each up to its position in `cursors`.
        """
        _log.warning("republish.started", group=self._group, shards=len(cursors.behind))
        after, count = ("", 0), 0
        while True:
            rows = await self._log.read_unfinished(cursors.behind, after=after, limit=_PAGE)
            if not rows:
                break
            after = (rows[-1].stream_id, rows[-1].version)
            before_cursor = [row for row in rows if row.position <= cursors.positions[row.shard]]
            batch = group_by_partition(await self._encoder.encode(before_cursor, broker.partition_of))
            if batch is None:
                continue
            acks = await broker.send(batch.records)
            await session.move({}, note_acks(acks, acknowledged)[0])
            count += batch.count
            metrics.REPUBLISHED.labels(self._group).inc(batch.count)
        await session.republished(cursors.behind, cursors.newest_loss)
        _log.info("republish.finished", group=self._group, events=count)


async def note_loss(session: LeaderSession, reason: str, *, seen: int, group: str) -> None:
    """Record that the broker lost data: in this process's log and metrics, and in the database, where all leaders see
    it.

    Nothing is recorded in the database when it has a loss with a higher number than `seen`.
    """
    _log.error("broker.data_lost", group=group, reason=reason)
    metrics.LOSSES.labels(group).inc()
    await session.note_loss(reason, seen)


def note_acks(
    acks: Sequence[Ack], acknowledged: AcknowledgedOffsets
) -> tuple[list[LastPublished], str | None]:
    """Return the records to store as last published, and a text that says why the broker must have lost data.

    The text is None when the broker lost none. The broker has lost data when it gave out an offset a second time.
    """
    published, lost = [], None
    for ack in acks:
        if ack.last < 0:
            continue
        if not acknowledged.take(ack.partition, ack.first, ack.batch, ack.last):
            lost = f"{ack.partition.topic}[{ack.partition.partition}] gave offset {ack.first} again"
        row = ack.record.row
        published.append(LastPublished(ack.partition, ack.batch, row.event_id, row.stream_id, row.version))
    return published, lost


def _to_read(
    last: Mapping[TopicPartition, LastPublished], held: Mapping[TopicPartition, OffsetRange]
) -> dict[TopicPartition, tuple[int, int]]:
    """Return for each partition the range of offsets to compare with the log. The second offset is excluded.

    The range begins at the last acknowledged batch. When retention has deleted that batch, the range is the whole
    partition. When nothing was acknowledged yet, it is only the last record.
    """
    ranges = {}
    for partition, offsets in held.items():
        one = last.get(partition)
        if one is None:
            ranges[partition] = (max(offsets.start, offsets.end - 1), offsets.end)
        elif can_be_read(one, held):
            ranges[partition] = (one.offset, offsets.end)
        elif offsets.end > one.offset:
            ranges[partition] = (offsets.start, offsets.end)
    return ranges


def _fact(record: BrokerRecord) -> BrokerFact | None:
    """Return the fact in a record, or None when the relay did not write the record."""
    event_id, subject = _text(record, names.ID), _text(record, names.SUBJECT)
    sequence = _text(record, names.SEQUENCE)
    if event_id is None or subject is None or sequence is None or not sequence.isdigit():
        return None
    try:
        return BrokerFact(record.partition, record.offset, UUID(event_id), subject, int(sequence))
    except ValueError:
        return None


def _text(record: BrokerRecord, header: str) -> str | None:
    value = record.headers.get(header)
    return None if value is None else value.decode("utf-8", "replace")
