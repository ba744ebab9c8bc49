"""Wakes sleeping builds. A wake also reserves the money of the next call, so that the call is not denied."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from uuid import UUID

import structlog

from nightshift.budget.domain.calendar import day_at
from nightshift.budget.domain.shares import BuildShare, on_day, order
from nightshift.budget.domain.sleepers import Need, share
from nightshift.budget.ports import Ledger, LedgerChange, LedgerSnapshot
from nightshift.budget.usecases.account_days import AccountDays
from nightshift.budget.usecases.bills import Bills, find_event, newest_first, read_bills, settle_bills
from nightshift.budget.usecases.limit_waits import LimitWaits
from nightshift.budget.usecases.side_by_side import side_by_side
from nightshift.contracts.events.budget import WakeRequested
from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildAccepted,
    BuildWoken,
    CheckpointSaved,
    ModelCallStarted,
    SleepRequested,
)
from nightshift.contracts.ids import event_id
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.errors import EventIdReused, Refused, StreamClosed, Transient, VersionConflict
from nightshift.eventlog.port import Append, EventLog, NewEvent, PendingItem, RecordedEvent, build_stream

WakeReason = Literal["refresh", "top_up", "person", "provider"]

_log = structlog.get_logger(__name__)

#: When one of these follows the sleep, the build is awake.
_AWAKE = (WakeRequested, BuildWoken, ModelCallStarted, BudgetRequested, CheckpointSaved)

#: The most accounts whose sleepers are woken side by side.
_PARALLEL = 4
#: How often a wake is tried that conflicts with other writers of the build's stream.
ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class Sleeper:
    """A sleeping build. `head` is the last version of its stream.

    `need` is the money for its next call, or None when the build never requested money.
    """

    slept: RecordedEvent
    sleep: SleepRequested
    head: int
    need: Need | None


@dataclass(frozen=True, slots=True)
class Unpaid:
    """Why a sleeper was not woken: its account has only `left` microdollars until `refresh_at`."""

    left: int
    refresh_at: datetime


class Wakes:
    """Wakes sleeping builds, and remembers which accounts may have money for sleepers."""

    def __init__(self, log: EventLog, ledger: Ledger, days: AccountDays) -> None:
        self._event_log = log
        self._ledger = ledger
        self._days = days
        self.limit_waits = LimitWaits(log, ledger)
        # The notes of an earlier process are lost, so the first search covers every account.
        self._every_account = True
        self._accounts: set[str] = set()
        self._unpaid: set[str] = set()  # streams of sleepers that were due and could not be paid
        # (stream, version) → sleep, from the last search.
        self._sleeps: dict[tuple[str, int], SleepRequested] = {}

    def note_money(self, account_id: str) -> None:
        """Remember that this account may have money, so that the next search covers its sleeping builds."""
        self._accounts.add(account_id)

    def note_sleep(self, slept: SleepRequested) -> None:
        """Remember the account of a build that fell asleep for money, so that the next search covers the account.

        Without this, money that was released between the denial and the sleep would not wake the build.
        """
        if slept.reason == "budget":
            self._accounts.add(slept.account_id)

    async def wake_for_released_money(self) -> None:
        """Wake the builds that sleep for money, in all accounts that may have money again, while the money lasts."""
        await self.limit_waits.look()
        every, accounts = self._every_account, self._accounts
        if not every and not accounts:
            return
        self._every_account, self._accounts = False, set()
        try:
            for sleepers in (await self._sleepers(None if every else accounts)).values():
                await self._wake_in_turn(sleepers, reason="top_up")
        except Transient:
            self._every_account |= every
            self._accounts |= accounts
            raise

    async def wake_account(self, account_id: str) -> None:
        """Wake the account's builds that sleep for money, while the account has money.

        The build that should get money first is woken first.
        """
        for sleepers in (await self._sleepers({account_id})).values():
            await self._wake_in_turn(sleepers, reason="top_up")

    async def wake_due(self, items: Sequence[PendingItem], now: datetime) -> Mapping[str, datetime]:
        """Wake the builds in `items`, whose time has come.

        Returns, by build id, when to try again to wake a build whose account cannot pay its next call.
        """
        waiting: dict[str, datetime] = {}
        self._unpaid.difference_update(item.stream_id for item in items)
        accounts: dict[str, list[Sleeper]] = {}
        for sleeper in await side_by_side([self._sleeper(item.stream_id) for item in items], most=_PARALLEL):
            if sleeper is not None:
                accounts.setdefault(sleeper.sleep.account_id, []).append(sleeper)
        in_turn = [self._wake_in_turn(sleepers, reason="refresh") for sleepers in accounts.values()]
        for of_account in await side_by_side(in_turn, most=_PARALLEL):
            for sleeper, unpaid in of_account:
                deadline = await self._deadline(sleeper)
                if deadline is not None and deadline <= now:
                    await self._append_wake(sleeper, "refresh", sleeper.slept.event_id)
                else:
                    again = unpaid.refresh_at if deadline is None else min(unpaid.refresh_at, deadline)
                    waiting[sleeper.slept.subject] = again
                    self._unpaid.add(sleeper.slept.stream_id)
        return waiting

    async def wake_asked(self, asked: RecordedEvent) -> None:
        """Wake a build because a person asked for it. A repeated request changes nothing.

        Raises Refused when the build is not asleep, or when its account has too little money for its next call.
        """
        build_id = asked.subject
        sleeper = await self._sleeper(build_stream(build_id))
        if sleeper is None:
            woken = event_id(asked.event_id, WakeRequested.type)
            if await find_event(self._event_log, build_stream(build_id), woken) is not None:
                return
            raise Refused(
                f"build {build_id} is not asleep", hint="nightshift builds shows what each build does"
            )
        unpaid = await self._wake(sleeper, "person", asked.event_id)
        if unpaid is not None and sleeper.need is not None:
            raise Refused(
                f"account {sleeper.sleep.account_id} has {unpaid.left} microdollars left today;"
                f" the next call of build {build_id} may cost {sleeper.need.minimum}",
                hint=f"nightshift account top-up {sleeper.sleep.account_id} AMOUNT",
            )

    async def _wake_in_turn(
        self, sleepers: Sequence[Sleeper], *, reason: WakeReason
    ) -> Sequence[tuple[Sleeper, Unpaid]]:
        """Wake these builds of one account, one after the other. Returns those that the account cannot pay, and why.

        The tier `priority` comes first, then the build that spent least, then the one that has slept longest.
        """
        unpaid = []
        queue = await self._in_fair_order(sleepers)
        for place, sleeper in enumerate(queue):
            later = [one.need for one in queue[place + 1 :] if one.need is not None]
            why: WakeReason = "provider" if sleeper.sleep.reason == "provider" else reason
            missing = await self._wake(sleeper, why, sleeper.slept.event_id, later=later)
            if missing is not None:
                unpaid.append((sleeper, missing))
        return unpaid

    async def _in_fair_order(self, sleepers: Sequence[Sleeper]) -> Sequence[Sleeper]:
        if len(sleepers) < 2:
            return sleepers
        account_id = sleepers[0].sleep.account_id
        account = await self._ledger.account(account_id)
        # On a new day no build has spent anything yet, but the stored account is still of the day before.
        day = "" if account is None else day_at(account.period, await self._ledger.now()).label
        shares = {one.build_id: on_day(one, day) for one in await self._ledger.shares(account_id)}

        def place(sleeper: Sleeper) -> tuple[bool, int, int, datetime]:
            build_id = sleeper.slept.subject
            share = shares.get(build_id) or BuildShare(build_id, account_id, False, day)
            return (*order(share), sleeper.slept.recorded_at)

        return sorted(sleepers, key=place)

    async def _wake(
        self, sleeper: Sleeper, reason: WakeReason, cause: UUID, *, later: Sequence[Need] = ()
    ) -> Unpaid | None:
        """Reserve the money of the next call and wake the build in one transaction.

        The sleepers after it keep what they need for their next calls, `later`, as far as money is left. Returns Unpaid
        when the account cannot pay the call. Returns None when the build is awake now or has ended.
        """
        for _ in range(ATTEMPTS):
            if sleeper.need is None:
                await self._append_wake(sleeper, reason, cause)
                return None
            held = await self._ledger.unsettled(sleeper.slept.subject)
            bills = await read_bills(self._event_log, sleeper.slept.stream_id, held)
            try:
                if bills.version in (None, sleeper.head):
                    return await self._reserve_and_wake(
                        sleeper, sleeper.need, bills, reason=reason, cause=cause, later=later
                    )
            except VersionConflict:
                pass
            except (EventIdReused, StreamClosed):
                return None  # the build was already woken for the same cause, or it has ended
            again = await self._sleeper(sleeper.slept.stream_id)
            if again is None or again.slept.event_id != sleeper.slept.event_id:
                return None
            sleeper = again
        raise Transient(f"{sleeper.slept.stream_id} changed {ATTEMPTS} times while the build was being woken")

    async def _reserve_and_wake(
        self,
        sleeper: Sleeper,
        need: Need,
        bills: Bills,
        *,
        reason: WakeReason,
        cause: UUID,
        later: Sequence[Need],
    ) -> Unpaid | None:
        account_id = sleeper.sleep.account_id
        unpaid: Unpaid | None = None

        def decide(snapshot: LedgerSnapshot) -> LedgerChange | None:
            nonlocal unpaid
            account, day, appends = self._days.today(account_id, snapshot)
            settled = settle_bills(account, bills)
            wanted = share(settled.account.left_today, need, later)
            wake = WakeRequested(reason=reason)
            grant = (
                None
                if wanted is None
                else self._days.grant(
                    settled.account,
                    wanted,
                    # The lease id of the reservation is the event id of the wake.
                    lease_id=event_id(cause, wake.type),
                    build_id=sleeper.slept.subject,
                    cause=cause,
                    now=snapshot.now,
                )
            )
            if grant is None:
                unpaid = Unpaid(settled.account.left_today, day.refresh_at)
                return None
            account, granted, opened = grant
            on_build = (*settled.events, NewEvent(wake, cause), NewEvent(granted, cause))
            append = Append(sleeper.slept.stream_id, on_build, sleeper.head)
            known = {one.build_id: one for one in snapshot.shares}
            mine = known.get(sleeper.slept.subject)
            return LedgerChange(
                account,
                [*appends, append],
                opened,
                settled.ended,
                share=mine and replace(on_day(mine, day.label), needs=need.minimum, waits_since=None),
            )

        lease_id = event_id(cause, WakeRequested.type)
        change = await self._ledger.transact(account_id, decide, lease_id=lease_id)
        if change is not None and change.ended:
            self.note_money(account_id)
        return unpaid

    async def _append_wake(self, sleeper: Sleeper, reason: WakeReason, cause: UUID) -> None:
        """Append `wake.requested` without reserving money, for a build whose next step costs nothing.

        When another writer appended to the stream first, append nothing.
        """
        wake = WakeRequested(reason=reason)
        try:
            await self._event_log.append(
                sleeper.slept.stream_id, [NewEvent(wake, cause)], expected_version=sleeper.head
            )
        except (VersionConflict, EventIdReused, StreamClosed) as error:
            # If the build still sleeps, the next search finds it again.
            _log.info("wake.overtaken", build_id=sleeper.slept.subject, reason=type(error).__name__)

    async def _sleepers(self, accounts: Set[str] | None) -> Mapping[str, Sequence[Sleeper]]:
        """Return the builds that sleep for money, by account. If `accounts` is None, search all accounts."""
        found: dict[str, list[Sleeper]] = {}
        sleeps: dict[tuple[str, int], SleepRequested] = {}
        after = ""
        while items := await self._event_log.pending(PendingKind.SLEEPER, after_key=after):
            after = items[-1].key
            for item in items:
                sleep = await self._sleep(item)
                if sleep is None:
                    continue
                sleeps[item.stream_id, item.version] = sleep
                for_money = sleep.reason == "budget" or item.stream_id in self._unpaid
                if for_money and (accounts is None or sleep.account_id in accounts):
                    sleeper = await self._sleeper(item.stream_id)
                    if sleeper is not None:
                        found.setdefault(sleep.account_id, []).append(sleeper)
        self._sleeps = sleeps
        self._unpaid &= {stream_id for stream_id, _ in sleeps}
        return found

    async def _sleep(self, item: PendingItem) -> SleepRequested | None:
        known = self._sleeps.get((item.stream_id, item.version))
        if known is not None:
            return known
        async for event in self._event_log.read_stream(item.stream_id, from_version=item.version, limit=1):
            if isinstance(event.data, SleepRequested):
                return event.data
        return None

    async def _sleeper(self, stream_id: str) -> Sleeper | None:
        """Read from the stream why a build sleeps and what its next call needs. Returns None when it is not asleep."""
        sleeper: Sleeper | None = None
        head = reserved = 0
        async for event in newest_first(self._event_log, stream_id):
            head = max(head, event.version)
            match event.data:
                case _ if sleeper is None and isinstance(event.data, _AWAKE):
                    return None
                case SleepRequested() as sleep if sleeper is None:
                    sleeper = Sleeper(event, sleep, head, None)
                case ModelCallStarted() as call:
                    reserved = max(reserved, call.reserve_microusd)
                case BudgetRequested() as request if sleeper is not None:
                    minimum = max(request.minimum_microusd, reserved)
                    return replace(sleeper, need=Need(max(request.amount_microusd, minimum), minimum))
                case data if data.terminal:
                    return None
                case _:
                    pass
        return sleeper

    async def _deadline(self, sleeper: Sleeper) -> datetime | None:
        """Return the deadline at which the build fails, or None when it has none."""
        async for event in self._event_log.read_stream(sleeper.slept.stream_id, limit=1):
            if isinstance(event.data, BuildAccepted):
                return event.data.deadline
        return None
