"""Answers requests for money, and settles reservations when a build sleeps or ends, or when they expire."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from nightshift.budget.domain import events
from nightshift.budget.domain.shares import BuildShare, goes_first, needs_of, on_day
from nightshift.budget.domain.sleepers import Need, share
from nightshift.budget.ports import Ledger, LedgerChange, LedgerSnapshot
from nightshift.budget.usecases.account_days import AccountDays
from nightshift.budget.usecases.bills import Bills, read_bills, settle_bills
from nightshift.contracts.events.build import BudgetRequested
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import EventIdReused, StreamClosed, Transient, VersionConflict
from nightshift.eventlog.port import Append, EventLog, NewEvent, PendingItem, RecordedEvent, build_stream

#: How often a transaction is tried that conflicts with other writers of the build's stream.
ATTEMPTS = 50
#: How long a model call may still run after its reservation expired.
_IN_FLIGHT = timedelta(hours=1)


class Grants:
    """Grants, denies, settles and expires reservations. Calls `on_released` with the id of an account that has money
    again.
    """

    def __init__(
        self, log: EventLog, ledger: Ledger, days: AccountDays, *, on_released: Callable[[str], None]
    ) -> None:
        self._event_log = log
        self._ledger = ledger
        self._days = days
        self._on_released = on_released

    async def answer(self, event: RecordedEvent, request: BudgetRequested) -> None:
        """Grant or deny a request for money that has no answer yet. A request of an ended build is denied.

        Settles the build's older reservations in the same transaction, except those that pay for a running model call.
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
            if change is not None and (change.ended or change.opened is None):
                # Also when another build goes first, because that build must wake.
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
            account, opened = settled.account, None
            answer: Event
            mine, others = _shares(event.subject, request, snapshot, day.label, bills)
            need = Need(request.amount_microusd, request.minimum_microusd)
            first = goes_first(
                mine, others, left=account.left_today, minimum=need.minimum, limit=account.limit
            )
            wanted = None if ended or first else share(account.left_today, need, needs_of(others))
            granted = wanted and self._days.grant(
                account,
                wanted,
                lease_id=request.lease_id,
                build_id=event.subject,
                cause=event.event_id,
                now=snapshot.now,
            )
            if granted:
                account, answer, opened = granted
                mine = replace(mine, waits_since=None)
            else:
                name = None if first is None else first.build_id
                answer = events.denied(account, day, lease_id=request.lease_id, first=name)
            on_build = (*settled.events, NewEvent(answer, event.event_id))
            append = Append(event.stream_id, on_build, bills.version)
            return LedgerChange(
                account, [*appends, append], opened, settled.ended, share=None if ended else mine
            )

        return await self._ledger.transact(request.account_id, decide, lease_id=request.lease_id)

    async def settle_build(self, build_id: str, *, granted_before: int, in_flight: bool = True) -> None:
        """Settle the reservations of the build that were granted before the stream version `granted_before`.

        Their unspent money is released. If `in_flight` is False, a reservation that pays for a running model call stays
        open.
        """

        async def read() -> Bills:
            bills = await self._bills(build_id, granted_before=granted_before)
            return bills if in_flight else bills.without_calls_in_flight()

        await self._settle(build_id, read)

    async def end_build(self, ended: RecordedEvent) -> None:
        """Settle the reservations of a build that has ended.

        Also record its end, so that the build no longer gets a share of the account's money.
        """
        await self.settle_build(ended.subject, granted_before=ended.version)
        await self._ledger.end_build(ended.subject, ended.data.type)

    async def stop_waiting(self, build_id: str) -> None:
        """Record that the build waits for a person or a provider, so that no other build lets it go first."""
        await self._ledger.stop_waiting(build_id)

    async def expire(self, item: PendingItem, now: datetime) -> bool:
        """Settle an expired reservation: post the cost of its model calls, and release the money that is left.

        Returns False, and settles nothing, while one of its model calls runs: the cost is not known yet. The process
        that runs the build ends that call. After `_IN_FLIGHT` the call counts with its highest possible cost.
        """
        held = await self._ledger.find(UUID(item.key))
        if held is None:
            return True
        patient = now < held.expires_at + _IN_FLIGHT

        async def read() -> Bills:
            bills = await read_bills(self._event_log, item.stream_id, [held])
            return bills.without_calls_in_flight() if patient else bills

        return await self._settle(held.build_id, read, expired=True)

    async def _settle(
        self, build_id: str, read: Callable[[], Awaitable[Bills]], *, expired: bool = False
    ) -> bool:
        """Settle the bills that `read` returns, as `expired` if that is True. Returns False when there are no bills."""
        stream = build_stream(build_id)
        for _ in range(ATTEMPTS):
            bills = await read()
            if not bills.bills:
                return False
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
            return True
        raise _overtaken(stream)

    async def _bills(self, build_id: str, *, granted_before: int, but: UUID | None = None) -> Bills:
        held = [one for one in await self._ledger.unsettled(build_id) if one.lease_id != but]
        return await read_bills(self._event_log, build_stream(build_id), held, granted_before=granted_before)


def _shares(
    build_id: str, request: BudgetRequested, snapshot: LedgerSnapshot, day: str, bills: Bills
) -> tuple[BuildShare, Sequence[BuildShare]]:
    """Return the share of the requesting build, including its open bills of today, and the shares of the other
    builds.
    """
    known = {one.build_id: on_day(one, day) for one in snapshot.shares}
    mine = known.pop(build_id, BuildShare(build_id, request.account_id, False, day))
    today = sum(bill.spent.total for bill in bills.bills if bill.reservation.day == day)
    mine = replace(
        mine,
        priority=request.tier == "priority",
        spent_today=mine.spent_today + today,
        needs=request.minimum_microusd,
        waits_since=mine.waits_since or snapshot.now,
    )
    return mine, tuple(known.values())


def _overtaken(stream: str) -> Transient:
    return Transient(f"{stream} changed {ATTEMPTS} times while a reservation of it was being settled")
