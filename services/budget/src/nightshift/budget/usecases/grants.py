"""Answers requests for money, and settles reservations when a build sleeps or ends, or when they expire."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from nightshift.budget.domain import events
from nightshift.budget.domain.sleepers import Need
from nightshift.budget.ports import Ledger, LedgerChange, LedgerSnapshot
from nightshift.budget.usecases.account_days import AccountDays
from nightshift.budget.usecases.bills import Bills, read_bills, settle_bills
from nightshift.contracts.events.build import BudgetRequested
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import EventIdReused, StreamClosed, Transient, VersionConflict
from nightshift.eventlog.port import Append, EventLog, NewEvent, PendingItem, RecordedEvent, build_stream

#: The most attempts of a transaction that conflicts with other writers of the build's stream.
ATTEMPTS = 50


class Grants:
    """The use cases about reservations. Calls `on_released` with each account that got money back."""

    def __init__(
        self, log: EventLog, ledger: Ledger, days: AccountDays, *, on_released: Callable[[str], None]
    ) -> None:
        self._event_log = log
        self._ledger = ledger
        self._days = days
        self._on_released = on_released

    async def answer(self, event: RecordedEvent, request: BudgetRequested) -> None:
        """Grant or deny a request that has no answer yet. Denies a request of a build that has ended.

        Settles older reservations of the build in the same transaction, except those under which a call runs.
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
            # A request that was denied yesterday must not be granted today.
            if snapshot.granted or not snapshot.request_waits:
                return None
            account, day, appends = self._days.today(request.account_id, snapshot)
            settled = settle_bills(account, bills)
            account = settled.account
            answer: Event = events.denied(account, day, lease_id=request.lease_id)
            opened = None
            granted = (
                None
                if ended
                else self._days.grant(
                    account,
                    Need(request.amount_microusd, request.minimum_microusd),
                    lease_id=request.lease_id,
                    build_id=event.subject,
                    cause=event.event_id,
                    now=snapshot.now,
                )
            )
            if granted is not None:
                account, answer, opened = granted
            on_build = (*settled.events, NewEvent(answer, event.event_id))
            append = Append(event.stream_id, on_build, bills.version)
            return LedgerChange(account, [*appends, append], opened, settled.ended)

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
        if held is not None:
            await self._settle(
                held.build_id,
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
            account_id = bills.bills[0].reservation.account_id

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
        held = [one for one in await self._ledger.unsettled(build_id) if one.lease_id != but]
        return await read_bills(self._event_log, build_stream(build_id), held, granted_before=granted_before)


def _overtaken(stream: str) -> Transient:
    return Transient(f"{stream} changed {ATTEMPTS} times while a reservation of it was being settled")
