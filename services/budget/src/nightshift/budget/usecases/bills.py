"""Reads from a build's stream what was spent under its reservations, and settles them in an account."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from nightshift.budget.domain import events
from nightshift.budget.domain.ledger import Account, Reservation, Settlement, settle
from nightshift.budget.domain.spending import Spent, spent_under
from nightshift.contracts.events.budget import BudgetSettled
from nightshift.contracts.model import Event
from nightshift.eventlog.port import EventLog, NewEvent, RecordedEvent

#: Events per read. The wanted event is nearly always among the stream's last few.
_PAGE = 50


@dataclass(frozen=True, slots=True)
class Bill:
    """A reservation that has not ended, and what was spent under it."""

    reservation: Reservation
    spent: Spent


@dataclass(frozen=True, slots=True)
class Bills:
    """The bills of one build, and the version of its stream that they were read at; None when there are no bills.

    An append that settles them expects this version, so that it conflicts with a call that starts meanwhile.
    """

    bills: Sequence[Bill] = ()
    version: int | None = None

    def without_calls_in_flight(self) -> "Bills":
        """Return the bills of reservations under which no call runs: the cost of the others is not known yet."""
        return replace(self, bills=[bill for bill in self.bills if not bill.spent.in_flight])


@dataclass(frozen=True, slots=True)
class Settled:
    """An account after its bills were settled, the events that say so, and how each reservation ended."""

    account: Account
    events: Sequence[NewEvent]
    ended: Sequence[tuple[UUID, Settlement]]


async def newest_first(log: EventLog, stream_id: str) -> AsyncIterator[RecordedEvent]:
    """Yield the events of a stream, the newest first. Reads small pages."""
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
    """Read what was spent under these reservations of one build.

    Leaves out those that the stream shows as settled, and those granted at version `granted_before` or later.
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
    """Settle every bill in the account. Pure."""
    appended, ended = [], []
    for bill in bills.bills:
        account, settlement = settle(account, bill.reservation, bill.spent, expired=expired)
        fact = events.settled(bill.reservation, settlement)
        appended.append(NewEvent(fact, bill.reservation.granted_event))
        ended.append((bill.reservation.lease_id, settlement))
    return Settled(account, tuple(appended), tuple(ended))
