"""Answers requests for money, and settles reservations when a build sleeps or ends, or when they expire."""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from nightshift.budget.domain import events
from nightshift.budget.domain.ledger import Reservation, reserve
from nightshift.budget.ports import HeldReservation, Ledger, LedgerChange, LedgerSnapshot, Opening
from nightshift.budget.usecases.account_days import AccountDays
from nightshift.budget.usecases.bills import Bills, read_bills, settle_bills
from nightshift.contracts.events.build import BudgetRequested
from nightshift.contracts.ids import event_id
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import EventIdReused, StreamClosed, Transient, VersionConflict
from nightshift.eventlog.port import Append, EventLog, NewEvent, PendingItem, RecordedEvent, build_stream

#: A transaction that others overtook on the build's stream is decided again, this many times at most.
ATTEMPTS = 50


class Grants:
    """The use cases about reservations. `on_released` is called with each account that got money back."""

    def __init__(
        self, log: EventLog, ledger: Ledger, days: AccountDays, *, on_released: Callable[[str], None]
    ) -> None:
        self._event_log = log
        self._ledger = ledger
        self._days = days
        self._on_released = on_released

    async def answer(self, event: RecordedEvent, request: BudgetRequested) -> None:
        """Grant or deny a request that waits for its answer; one that does not wait changes nothing.

        Older reservations of the build are settled in the same transaction, except those under which a call still runs:
        what they release counts as left. A request of a build that has ended is denied.
        """
        ended = False
        for _ in range(ATTEMPTS):
            bills = await self._bills(event.subject, granted_before=event.version, but=request.lease_id)
            try:
                change = await self._answer(event, request, bills.without_calls_in_flight(), ended=ended)
            except StreamClosed:
                ended = True
                continue
            except (VersionConflict, EventIdReused):
                continue
            if change is not None and change.ended:
                self._on_released(request.account_id)
            return
        raise _overtaken(event.stream_id)

    async def _answer(
        self, event: RecordedEvent, request: BudgetRequested, bills: Bills, *, ended: bool
    ) -> LedgerChange | None:
        def decide(snapshot: LedgerSnapshot) -> LedgerChange | None:
            # An answer that was a denial yesterday must not become a grant today.
            if snapshot.held or not snapshot.request_waits:
                return None
            account, day, appends = self._days.today(request.account_id, snapshot)
            settled = settle_bills(account, bills)
            account, amount = settled.account, 0
            if not ended:
                account, amount = reserve(account, request.amount_microusd, request.minimum_microusd)
            answer: Event = events.denied(account, day, lease_id=request.lease_id)
            opening = None
            if amount:
                answer = granted = events.granted(
                    account,
                    lease_id=request.lease_id,
                    amount=amount,
                    now=snapshot.now,
                    lasts=self._days.policy.grant_lasts,
                )
                reservation = Reservation(
                    request.lease_id, account.account_id, event.subject, account.day, amount
                )
                opening = Opening(reservation, event_id(event.event_id, granted.type), granted.expires_at)
            on_build = (*settled.events, NewEvent(answer, event.event_id))
            append = Append(event.stream_id, on_build, bills.version)
            return LedgerChange(account, [*appends, append], opening, settled.ended)

        return await self._ledger.transact(request.account_id, decide, lease_id=request.lease_id)

    async def settle_build(self, build_id: str, *, granted_before: int, in_flight: bool = True) -> None:
        """Settle the build's reservations granted before this version of its stream, and release what was not spent.

        Without `in_flight`, a reservation under which a call still runs stays.
        """

        async def read() -> Bills:
            bills = await self._bills(build_id, granted_before=granted_before)
            return bills if in_flight else bills.without_calls_in_flight()

        await self._settle(build_id, read)

    async def expire(self, item: PendingItem) -> None:
        """Settle a reservation that expired: post the calls started under it, release the rest."""
        held = await self._ledger.find(UUID(item.key))
        if held is not None and not held.settled:
            await self._settle(
                held.reservation.build_id,
                lambda: read_bills(self._event_log, item.stream_id, [held]),
                expired=True,
            )

    async def _settle(
        self, build_id: str, read: Callable[[], Awaitable[Bills]], *, expired: bool = False
    ) -> None:
        stream = build_stream(build_id)
        for _ in range(ATTEMPTS):
            bills = await read()
            if not bills.bills:
                return
            account_id = bills.bills[0].held.reservation.account_id

            def decide(snapshot: LedgerSnapshot, bills: Bills = bills) -> LedgerChange | None:
                if snapshot.account is None:
                    return None
                account, _, appends = self._days.today(snapshot.account.account_id, snapshot)
                settled = settle_bills(account, bills, expired=expired)
                append = Append(stream, settled.events, bills.version)
                return LedgerChange(settled.account, [*appends, append], ended=settled.ended)

            try:
                await self._ledger.transact(account_id, decide)
            except (VersionConflict, EventIdReused):
                continue
            self._on_released(account_id)
            return
        raise _overtaken(stream)

    async def _bills(self, build_id: str, *, granted_before: int, but: UUID | None = None) -> Bills:
        held: Sequence[HeldReservation] = [
            one for one in await self._ledger.unsettled(build_id) if one.reservation.lease_id != but
        ]
        return await read_bills(self._event_log, build_stream(build_id), held, granted_before=granted_before)


def _overtaken(stream: str) -> Transient:
    return Transient(f"{stream} changed {ATTEMPTS} times while a reservation of it was being settled")
