"""What the budget service does: answer requests for money, end reservations, note accounts, wake sleepers."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID, uuid5

import structlog

from nightshift.budget.domain import events as say
from nightshift.budget.domain.calendar import Day, Period, check_time_zone, day_at, period_start
from nightshift.budget.domain.ledger import (
    Account,
    Reservation,
    credit,
    open_account,
    refresh,
    reserve,
    set_period_budget,
    settle,
)
from nightshift.budget.domain.spending import spent_under
from nightshift.budget.ledger import Books, HeldReservation, Ledger, Opening, Step
from nightshift.contracts.events.account import (
    AccountBudgetSet,
    AccountOpened,
    AccountToppedUp,
    BudgetCredited,
)
from nightshift.contracts.events.budget import WakeRequested
from nightshift.contracts.events.build import BudgetRequested, SleepRequested
from nightshift.contracts.ids import NAMESPACE, event_id
from nightshift.contracts.model import Event, PendingKind
from nightshift.eventlog.errors import EventIdReused, Refused, StreamClosed, Transient, VersionConflict
from nightshift.eventlog.port import (
    Append,
    EventLog,
    NewEvent,
    PendingItem,
    RecordedEvent,
    account_stream,
    build_stream,
)

log = structlog.get_logger(__name__)

#: A settlement races with what others append to the build's stream; it reads again and tries again this often.
SETTLE_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class Policy:
    """What a setting decides: the budget of an account nobody opened, how long a grant lasts, how long a day is."""

    default_period_budget: int
    default_period_days: int
    default_time_zone: str
    grant_lasts: timedelta
    day_seconds: float | None


class Budget:
    """The use cases, over the log and the ledger."""

    def __init__(self, log_port: EventLog, ledger: Ledger, policy: Policy) -> None:
        self._log = log_port
        self._ledger = ledger
        self._policy = policy
        self._freed: set[str] = set()  # accounts to which money came back since their sleepers were looked at

    async def answer(self, event: RecordedEvent, request: BudgetRequested) -> None:
        """Grant or deny, once. What the build still had reserved is settled first: it is part of what is left."""
        await self.settle_build(event.subject, but=request.lease_id)

        def decide(books: Books) -> Step | None:
            # Answered before: an answer that was a denial yesterday must not be a grant today.
            if books.held or not books.request_waits:
                return None
            account, day, appends = self._today(request.account_id, books)
            account, amount = reserve(account, request.amount_microusd, request.minimum_microusd)
            if not amount:
                answer: Event = say.denied(account, day, lease_id=request.lease_id)
                return Step(account, [*appends, _on(event.stream_id, answer, event.event_id)])
            granted = say.granted(
                account,
                lease_id=request.lease_id,
                amount=amount,
                now=books.now,
                lasts=self._policy.grant_lasts,
            )
            reservation = Reservation(
                request.lease_id, account.account_id, event.subject, account.day, amount
            )
            opening = Opening(reservation, event_id(event.event_id, granted.type), granted.expires_at)
            return Step(account, [*appends, _on(event.stream_id, granted, event.event_id)], opened=opening)

        try:
            await self._ledger.transact(request.account_id, decide, lease_id=request.lease_id)
        except StreamClosed:
            log.info("budget.request_of_an_ended_build", lease_id=str(request.lease_id))

    async def settle_build(self, build_id: str, *, but: UUID | None = None) -> None:
        """End every reservation of a build with what was spent under it; the rest is free again."""
        for held in await self._ledger.unsettled(build_id):
            if held.reservation.lease_id != but:
                await self._settle(held, expired=False)

    async def expire(self, item: PendingItem) -> None:
        """Its owner let a reservation run out: post what was started, release what was not."""
        held = await self._ledger.find(UUID(item.key))
        if held and not held.settled:
            await self._settle(held, expired=True)

    async def _settle(self, held: HeldReservation, *, expired: bool) -> None:
        reservation = held.reservation
        stream = build_stream(reservation.build_id)
        for _ in range(SETTLE_ATTEMPTS):
            spent, version = await self._spent(stream, held)

            def decide(books: Books, spent: int = spent, version: int = version) -> Step | None:
                if books.account is None or books.held is None or books.held.settled:
                    return None
                account, _, appends = self._today(reservation.account_id, books)
                account, end = settle(account, reservation, spent, expired=expired)
                fact = say.settled(reservation, end)
                # The expected version makes the sum the whole sum: a call started meanwhile is a conflict here, or
                # there for an owner that was paused.
                append = replace(_on(stream, fact, held.granted_event), expected_version=version)
                return Step(account, [*appends, append], ended=(reservation.lease_id, end))

            try:
                await self._ledger.transact(reservation.account_id, decide, lease_id=reservation.lease_id)
            except VersionConflict:
                continue
            self._freed.add(reservation.account_id)
            return
        raise VersionConflict(f"{stream} never stood still while a reservation of it was to be settled")

    async def _spent(self, stream: str, held: HeldReservation) -> tuple[int, int]:
        """What was spent under a reservation, and the version up to which the stream was read."""
        events: list[Event] = []
        version = 0
        async for recorded in self._log.read_stream(stream, backwards=True):
            version = max(version, recorded.version)
            if recorded.event_id == held.granted_event:
                break
            events.append(recorded.data)
        return spent_under(held.reservation.lease_id, reversed(events)), version

    def _today(self, account_id: str, books: Books) -> tuple[Account, Day, Sequence[Append]]:
        """The account on the day it is now, opened with the default budget if nobody opened it."""
        appends: list[Append] = []
        account = books.account
        if account is None:
            account = self._open(account_id, books.now)
            appends.append(self._note_period(account, books.now))
        day = day_at(account.period, books.now)
        before = account.day
        account = refresh(account, day)
        if account.day != before or books.account is None:
            cause = uuid5(NAMESPACE, f"day/{account_id}/{day.label}")
            appends.append(_on(account_stream(account_id), say.refreshed(account, day), cause))
        return account, day, _joined(appends)

    def _open(self, account_id: str, now: datetime) -> Account:
        policy = self._policy
        zone = policy.default_time_zone
        period = Period(
            zone, period_start(zone, now, policy.day_seconds), policy.default_period_days, policy.day_seconds
        )
        return open_account(account_id, period, policy.default_period_budget, day_at(period, now))

    def _note_period(self, account: Account, now: datetime) -> Append:
        cause = uuid5(NAMESPACE, f"period/{account.account_id}/{now.isoformat()}")
        return _on(account_stream(account.account_id), say.period_set(account), cause)

    async def open(self, event: RecordedEvent, asked: AccountOpened) -> None:
        """Open an account, or give an open one this budget. Raises BadMessage for an unknown time zone."""
        check_time_zone(asked.time_zone)
        await self._set_period(
            event, asked.account_id, asked.period_budget_microusd, asked.period_days, asked.time_zone
        )

    async def set_budget(self, event: RecordedEvent, asked: AccountBudgetSet) -> None:
        await self._set_period(event, asked.account_id, asked.period_budget_microusd, asked.period_days, None)

    async def _set_period(
        self, event: RecordedEvent, account_id: str, budget: int, days: int, time_zone: str | None
    ) -> None:
        def decide(books: Books) -> Step:
            known = books.account
            zone = time_zone or (known.period.time_zone if known else self._policy.default_time_zone)
            if known is None:
                start = period_start(zone, books.now, self._policy.day_seconds)
                period = Period(zone, start, days, self._policy.day_seconds)
                day = day_at(period, books.now)
                account = open_account(account_id, period, budget, day)
                opened = _on(account_stream(account_id), say.refreshed(account, day), event.event_id)
                return Step(account, _joined([self._noted(account, event), opened]))
            account, _, appends = self._today(account_id, books)
            period = replace(account.period, time_zone=zone, days=days)
            account = set_period_budget(account, budget, period, day_at(period, books.now))
            return Step(account, _joined([*appends, self._noted(account, event)]))

        await self._ledger.transact(account_id, decide)
        self._freed.add(account_id)  # the day may have more than before

    def _noted(self, account: Account, event: RecordedEvent) -> Append:
        return _on(account_stream(account.account_id), say.period_set(account), event.event_id)

    async def top_up(self, event: RecordedEvent, asked: AccountToppedUp) -> None:
        """Money for today; what sleeps for want of it wakes at once."""

        def decide(books: Books) -> Step:
            account, _, appends = self._today(asked.account_id, books)
            account = credit(account, asked.amount_microusd)
            fact = BudgetCredited(
                account_id=asked.account_id, amount_microusd=asked.amount_microusd, day=account.day
            )
            return Step(
                account, _joined([*appends, _on(account_stream(asked.account_id), fact, event.event_id)])
            )

        await self._ledger.transact(asked.account_id, decide)
        await self.wake_account(asked.account_id)

    async def wake_account(self, account_id: str) -> None:
        """Wake every build of the account that sleeps for money, oldest first."""
        after = ""
        while items := await self._log.pending(PendingKind.SLEEPER, after_key=after):
            after = items[-1].key
            for item in sorted(items, key=lambda item: item.opened_at):
                slept = await self._sleep_of(item)
                if slept and _asleep(slept).account_id == account_id and _asleep(slept).reason == "budget":
                    await self._wake(slept, "top_up")

    def note_sleep(self, slept: SleepRequested) -> None:
        """A build fell asleep. What another one gave back between its denial and its sleep may be enough for it."""
        if slept.reason == "budget":
            self._freed.add(slept.account_id)

    async def wake_for_what_came_back(self) -> None:
        """Money that was reserved and not spent is money that others of the account sleep for: wake the oldest, as
        many as it is enough for. Each woken one can begin a call, so this cannot go round in circles."""
        accounts, self._freed = self._freed, set()
        if not accounts:
            return
        try:
            sleepers = await self._sleepers_of(accounts)
            for account_id, asleep in sleepers.items():
                left = await self._left_today(account_id)
                for slept in sorted(asleep, key=lambda event: event.recorded_at):
                    needed = await self._needed_by(slept)
                    if needed is not None and needed <= left:
                        await self._wake(slept, "top_up")
                        left -= needed
        except Transient:
            self._freed |= accounts
            raise

    async def _sleepers_of(self, accounts: Set[str]) -> Mapping[str, Sequence[RecordedEvent]]:
        """Who sleeps for money of these accounts."""
        found: dict[str, list[RecordedEvent]] = {}
        after = ""
        while items := await self._log.pending(PendingKind.SLEEPER, after_key=after):
            after = items[-1].key
            for item in items:
                slept = await self._sleep_of(item)
                if slept and _asleep(slept).reason == "budget" and _asleep(slept).account_id in accounts:
                    found.setdefault(_asleep(slept).account_id, []).append(slept)
        return found

    async def _left_today(self, account_id: str) -> int:
        left = 0

        def look(books: Books) -> None:
            nonlocal left
            left = self._today(account_id, books)[0].left_today

        await self._ledger.transact(account_id, look)
        return left

    async def _needed_by(self, slept: RecordedEvent) -> int | None:
        """What the sleeper asked for and was denied, at least."""
        async for event in self._log.read_stream(slept.stream_id, to_version=slept.version, backwards=True):
            if isinstance(event.data, BudgetRequested):
                return event.data.minimum_microusd
        return None

    async def wake_due(self, item: PendingItem) -> None:
        """The time a sleeper named has come."""
        slept = await self._sleep_of(item)
        if slept:
            await self._wake(slept, "provider" if _asleep(slept).reason == "provider" else "refresh")

    async def wake_asked(self, build_id: str) -> None:
        """A person's word. A build that is not asleep is refused: there is nothing to wake."""
        async for event in self._log.read_stream(build_stream(build_id), backwards=True):
            if isinstance(event.data, SleepRequested):
                await self._wake(event, "person")
                return
            if isinstance(event.data, WakeRequested) or event.data.terminal:
                break
        raise Refused(f"build {build_id} is not asleep", hint="nightshift builds shows what each build does")

    async def _sleep_of(self, item: PendingItem) -> RecordedEvent | None:
        async for event in self._log.read_stream(
            item.stream_id, from_version=item.version, to_version=item.version
        ):
            return event
        return None

    async def _wake(self, slept: RecordedEvent, reason: str) -> None:
        # The sleep is the cause: two reasons to wake are one wake, whoever comes first.
        fact = WakeRequested.model_validate({"reason": reason})
        try:
            await self._log.append(slept.stream_id, [NewEvent(fact, slept.event_id)])
        except (EventIdReused, StreamClosed):
            log.info("budget.awake_already", build_id=slept.subject)


def _asleep(event: RecordedEvent) -> SleepRequested:
    if not isinstance(event.data, SleepRequested):
        raise TypeError(f"{event.stream_id} version {event.version} is no sleep.requested")
    return event.data


def _on(stream_id: str, fact: Event, cause: UUID) -> Append:
    return Append(stream_id, (NewEvent(fact, cause),))


def _joined(appends: Sequence[Append]) -> Sequence[Append]:
    """One append per stream: a transaction names each stream once."""
    streams: dict[str, list[NewEvent]] = {}
    for append in appends:
        streams.setdefault(append.stream_id, []).extend(append.events)
    return [Append(stream_id, tuple(events)) for stream_id, events in streams.items()]
