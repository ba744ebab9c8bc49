"""Before anything is published: does the broker hold what it acknowledged, and does the log have what Kafka tells?"""

from collections.abc import Sequence
from uuid import UUID

import structlog

from nightshift.contracts import topics as names
from nightshift.relay.domain.divergence import BrokerFact, diverged, explanation, token
from nightshift.relay.domain.errors import Diverged
from nightshift.relay.domain.readback import loss, to_read
from nightshift.relay.domain.records import AcknowledgedOffsets, Lane, LastPublished, lay_out
from nightshift.relay.ports import Ack, Broker, BrokerRecord, Cursors, LeaderSession, LogReader
from nightshift.relay.usecases import metrics
from nightshift.relay.usecases.encode import RecordEncoder

_log = structlog.get_logger(__name__)

_PAGE = 500


class BrokerCheck:
    """One group's look at broker and log, and what follows from it."""

    def __init__(
        self, log: LogReader, encoder: RecordEncoder, *, group: str, accept_divergence: str | None
    ) -> None:
        self._log_reader = log
        self._encoder = encoder
        self._group = group
        self._accepted = accept_divergence

    async def run(self, session: LeaderSession, broker: Broker) -> tuple[Cursors, AcknowledgedOffsets]:
        """Look, publish again what the broker lost, and answer from where to go on.

        Raises Diverged when a person must decide.
        """
        cursors = await session.cursors()
        published = await session.published()
        lost = await self._look(session, broker, published, cursors.newest_loss)
        acknowledged = AcknowledgedOffsets()
        if lost is None:
            acknowledged.offsets.update({one.lane: (one.offset, one.offset) for one in published})
        else:
            await note_loss(session, lost, seen=cursors.newest_loss, group=self._group)
        cursors = await session.cursors()
        if cursors.behind:
            await self._publish_again(session, broker, cursors, acknowledged)
        return cursors, acknowledged

    async def _look(
        self, session: LeaderSession, broker: Broker, published: Sequence[LastPublished], newest_loss: int
    ) -> str | None:
        offset_ranges = await broker.offset_ranges(list({*broker.lanes(), *(one.lane for one in published)}))
        last = {one.lane: one for one in published}
        ranges: dict[Lane, tuple[int, int]] = {}
        for lane, offsets in offset_ranges.items():
            one = last.get(lane)
            if one is None:
                ranges[lane] = (max(offsets.start, offsets.end - 1), offsets.end)
            elif to_read(one, offset_ranges):
                ranges[lane] = (one.offset, offsets.end)
            elif offsets.end > one.offset:
                ranges[lane] = (offsets.start, offsets.end)
        found: dict[Lane, str | None] = {}
        ends: dict[Lane, BrokerFact] = {}
        untold: list[BrokerFact] = []
        page: list[BrokerFact] = []
        async for held in broker.held(ranges):
            before = last.get(held.lane)
            if before is not None and held.offset == before.offset:
                found[held.lane] = _text(held, names.ID)
                continue
            told = _told(held)
            if told is not None:
                ends[told.lane] = told
                page.append(told)
            if len(page) >= _PAGE:
                untold += await self._missing(page)
                page = []
        untold += await self._missing(page)
        if untold:
            await self._decide(session, tuple(untold), ends, newest_loss)
        reasons = (loss(one, offset_ranges, found.get(one.lane)) for one in published)
        return next((reason for reason in reasons if reason is not None), None)

    async def _missing(self, page: list[BrokerFact]) -> tuple[BrokerFact, ...]:
        return diverged(page, await self._log_reader.known([fact.event_id for fact in page])) if page else ()

    async def _decide(
        self,
        session: LeaderSession,
        untold: tuple[BrokerFact, ...],
        ends: dict[Lane, BrokerFact],
        newest_loss: int,
    ) -> None:
        if self._accepted != token(untold):
            message, hint = explanation(untold)
            raise Diverged(message, hint=hint)
        _log.warning("log.diverged.accepted", facts=len(untold), token=self._accepted)
        await session.note_loss(f"divergence {self._accepted} accepted", newest_loss)
        await session.move(
            {}, [LastPublished(t.lane, t.offset, t.event_id, t.subject, t.version) for t in ends.values()]
        )

    async def _publish_again(
        self, session: LeaderSession, broker: Broker, cursors: Cursors, acknowledged: AcknowledgedOffsets
    ) -> None:
        _log.warning("relay.publishing_again", group=self._group, shards=len(cursors.behind))
        after, count = ("", 0), 0
        while True:
            rows = await self._log_reader.read_unfinished(cursors.behind, after=after, limit=_PAGE)
            if not rows:
                break
            after = (rows[-1].stream_id, rows[-1].version)
            before_cursor = [row for row in rows if row.position <= cursors.positions[row.shard]]
            batch = lay_out(await self._encoder.encode(before_cursor, broker.lane))
            if batch is None:
                continue
            acks = await broker.send(batch.lanes)
            await session.move({}, note_acks(acks, acknowledged)[0])
            count += batch.count
            metrics.REPUBLISHED.labels(self._group).inc(batch.count)
        await session.republished(cursors.behind, cursors.newest_loss)
        _log.info("relay.published_again", group=self._group, events=count)


async def note_loss(session: LeaderSession, reason: str, *, seen: int, group: str) -> None:
    """Say that the broker lost its data, to the log of this process and to all leaders."""
    _log.error("broker.lost_data", group=group, reason=reason)
    metrics.LOSSES.labels(group).inc()
    await session.note_loss(reason, seen)


def note_acks(
    acks: Sequence[Ack], acknowledged: AcknowledgedOffsets
) -> tuple[list[LastPublished], str | None]:
    """What to remember of acknowledgements; and why the broker must have lost data, when it gave an offset again."""
    published, lost = [], None
    for ack in acks:
        if ack.last < 0:
            continue
        if not acknowledged.take(ack.lane, ack.first, ack.batch, ack.last):
            lost = f"{ack.lane.topic}[{ack.lane.partition}] gave offset {ack.first} again"
        record = ack.record
        published.append(
            LastPublished(ack.lane, ack.batch, record.event_id, record.stream_id, record.version)
        )
    return published, lost


def _told(held: BrokerRecord) -> BrokerFact | None:
    """What a record says of the log; none for one that is no fact of ours."""
    event_id, subject = _text(held, names.ID), _text(held, names.SUBJECT)
    sequence = _text(held, names.SEQUENCE)
    if event_id is None or subject is None or sequence is None or not sequence.isdigit():
        return None
    try:
        return BrokerFact(held.lane, held.offset, UUID(event_id), subject, int(sequence))
    except ValueError:
        return None


def _text(held: BrokerRecord, header: str) -> str | None:
    value = held.headers.get(header)
    return None if value is None else value.decode("utf-8", "replace")
