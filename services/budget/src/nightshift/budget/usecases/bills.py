"""Reads from a build's stream what was spent of its reservations, and settles these reservations in the account."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from nightshift.budget.domain import events
from nightshift.budget.domain.ledger import Account, Reservation, Settlement, settle
from nightshift.budget.domain.spending import Spent, spent_under
from nightshift.contracts.events.budget import BudgetSettled
from nightshift.contracts.model import Event
from nightshift.eventlog.port import EventLog, NewEvent, RecordedEvent

#: Events per read. The event that is searched is nearly always among the last few of its stream.
_PAGE = 50


@dataclass(frozen=True, slots=True)
class Bill:
    """A reservation that is not settled, and what was spent of it."""

    reservation: Reservation
    spent: Spent


@dataclass(frozen=True, slots=True)
class Bills:
    """The bills of one build. `version` is the stream version at which they were read, or None without bills.

    The append that settles them expects this version. So it conflicts when another call starts in between.
    """

    bills: Sequence[Bill] = ()
    version: int | None = None

    def without_calls_in_flight(self) -> "Bills":
        """Leave out the reservations that pay for a running model call, because its cost is not known yet."""
        return replace(self, bills=[bill for bill in self.bills if not bill.spent.in_flight])


@dataclass(frozen=True, slots=True)
class Settled:
    """The account after its bills were settled, the events to append, and how each reservation ended."""

    account: Account
    events: Sequence[NewEvent]
    ended: Sequence[tuple[UUID, Settlement]]


async def newest_first(log: EventLog, stream_id: str) -> AsyncIterator[RecordedEvent]:
    """Yield the events of a stream in reverse order. Reads a few events at a time, because callers often stop early."""
    last: int | None = None
    while last is None or last > 0:
        first = last
        async for event in log.read_stream(stream_id, to_version=last, backwards=True, limit=_PAGE):
            yield event
            last = event.version - 1
        if last == first:
            return


async def find_event(log: EventLog, stream_id: str, event_id: UUID) -> RecordedEvent | None:
    """Return the event with this id, or None when the stream does not have it."""
    async for event in newest_first(log, stream_id):
        if event.event_id == event_id:
            return event
    return None


async def read_bills(
    log: EventLog, stream_id: str, held: Sequence[Reservation], *, granted_before: int | None = None
) -> Bills:
    """Return the bills for the unsettled reservations `held` of one build: what was spent of each.

    Reservations that the stream shows as settled are left out. If `granted_before` is not None, reservations granted at
    this stream version or later are left out, too.
    """
    grants = {one.granted_event: one for one in held}
    if not grants:
        return Bills()
    head, bills, newer = 0, [], list[Event]()
    settled: set[UUID] = set()
    async for event in newest_first(log, stream_id):
        head = max(head, event.version)
        if isinstance(event.data, BudgetSettled):
            settled.add(event.data.lease_id)
        found = grants.pop(event.event_id, None)
        old_enough = granted_before is None or event.version < granted_before
        if found is not None and old_enough and found.lease_id not in settled:
            bills.append(Bill(found, spent_under(found.lease_id, reversed(newer))))
        if not grants:
            break
        newer.append(event.data)
    return Bills(tuple(reversed(bills)), head) if bills else Bills()


def settle_bills(account: Account, bills: Bills, *, expired: bool = False) -> Settled:
    """End the reservations of all bills, and post what was spent of them to the account. Pure.

    `expired` says that the reservations ended because their time was over.
    """
    appended, ended = [], []
    for bill in bills.bills:
        account, settlement = settle(account, bill.reservation, bill.spent, expired=expired)
        fact = events.settled(bill.reservation, settlement)
        appended.append(NewEvent(fact, bill.reservation.granted_event))
        ended.append((bill.reservation.lease_id, settlement))
    return Settled(account, tuple(appended), tuple(ended))
