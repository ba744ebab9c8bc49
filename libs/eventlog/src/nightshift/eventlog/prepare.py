"""Turns the events of an append into the form that both adapters store: ids, canonical JSON, and changes of pending
rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from uuid import UUID

from nightshift.contracts.errors import ContractError
from nightshift.contracts.ids import event_id_bytes
from nightshift.contracts.model import Pending, PendingKind
from nightshift.contracts.registry import decode, encode
from nightshift.eventlog.errors import EventIdReused, Fault, Refused
from nightshift.eventlog.port import NewEvent, RecordedEvent, Row
from nightshift.eventlog.trace_context import CURRENT


class Prepared(NamedTuple):
    """An event in the form in which it is stored. The fields are in the order of the SQL functions' parameters."""

    event_id: UUID
    type: str
    schema_version: int
    data: str
    correlation_id: str
    causation_id: UUID
    actor: str
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class PendingChange:
    """What a batch of events finally does to the pending row of one kind and key: it opens or closes the row.

    `event` is the place in the batch (1, 2…) of the event that opens the row. None means that the row is closed.
    """

    change: Pending
    event: int | None


def _uuid(octets: bytes) -> UUID:
    return UUID(bytes=octets)


_make = partial(tuple.__new__, Prepared)  # faster than calling Prepared, which binds arguments by name


def prepare(
    stream_id: str, events: Sequence[NewEvent], *, actor: str, uuid: Callable[[bytes], UUID] = _uuid
) -> tuple[Prepared, ...]:
    """Encode the events of an append and derive their ids. `uuid` makes a UUID object from 16 bytes.

    An event without a `traceparent` gets the trace of the running code.

    Raises Refused when there are no events, or when an event's data has no JSON form. Raises EventIdReused when two
    events have the same id.
    """
    if not events:
        raise Refused(f"stream {stream_id}: the append has no events")
    subject, trace = stream_id.partition("-")[2], CURRENT.get()
    prepared, ids = [], []
    try:
        for event in events:
            data, cause = event.data, event.causation_id
            kind = data.type
            octets = event_id_bytes(cause, kind, event.index)
            ids.append(octets)
            prepared.append(
                _make(
                    (
                        uuid(octets),
                        kind,
                        data.version,
                        encode(data),
                        event.correlation_id or subject,
                        cause,
                        event.actor or actor,
                        event.traceparent or trace,
                    )
                )
            )
    except ContractError as error:
        raise Refused(f"stream {stream_id}: {error}") from error
    if len(set(ids)) < len(ids):
        raise EventIdReused(
            f"stream {stream_id}: two events of one append have one id",
            hint="give events of one type and cause an index: 0, 1, 2…",
        )
    return tuple(prepared)


def pending_changes(stream_id: str, events: Sequence[NewEvent]) -> tuple[PendingChange, ...]:
    """Return which pending rows a batch of events opens and closes, at most one change for each kind and key.

    When several events of the batch change the same row, returns one change with their combined effect.
    """
    subject = stream_id.partition("-")[2]
    net: dict[tuple[PendingKind, str], PendingChange] = {}
    for place, event in enumerate(events, start=1):
        for change in event.data.pending(subject):
            known = net.get((change.kind, change.key))
            if change.opens:
                net[change.kind, change.key] = PendingChange(change, place)
            elif known is None or change.through_version is None:
                net[change.kind, change.key] = PendingChange(change, None)
            elif known.event is None and known.change.through_version is not None:
                wider = max(change.through_version, known.change.through_version)
                net[change.kind, change.key] = PendingChange(
                    Pending(change.kind, change.key, opens=False, through_version=wider), None
                )
            # Otherwise this close concerns only rows from before the batch, so the change so far stays.
    return tuple(net.values())


def recorded(row: Row) -> RecordedEvent:
    """Return a row as an event: decoded and upcast to the newest schema version.

    Raises Fault when this release cannot decode it.
    """
    try:
        data = decode(row.type, row.schema_version, row.data)
    except ContractError as error:
        raise Fault(
            f"stream {row.stream_id}, version {row.version} cannot be read: {error}",
            hint="a newer release may have written it: upgrade this process",
        ) from error
    return RecordedEvent(row.event_id, row.stream_id, row.version, data, *row[8:])
