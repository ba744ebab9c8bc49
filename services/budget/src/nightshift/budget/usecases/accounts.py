"""Opens accounts, changes their budgets and policies, and adds money."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import structlog

from nightshift.budget.domain import events
from nightshift.budget.domain.calendar import check_time_zone, day_at
from nightshift.budget.domain.ledger import credit, set_period_budget
from nightshift.budget.ports import Decide, Ledger, LedgerChange, LedgerSnapshot
from nightshift.budget.usecases.account_days import AccountDays, joined, on_account
from nightshift.budget.usecases.bills import find_event
from nightshift.budget.usecases.wakes import Wakes
from nightshift.contracts.approval_rules import mistake_in
from nightshift.contracts.errors import UnknownModel
from nightshift.contracts.events.account import (
    AccountBudgetSet,
    AccountOpened,
    AccountPolicyChanged,
    AccountPolicySet,
    AccountToppedUp,
    BudgetCredited,
    BudgetPeriodSet,
)
from nightshift.contracts.ids import event_id
from nightshift.contracts.model import Event
from nightshift.contracts.models import check_usable
from nightshift.eventlog.errors import BadMessage, EventIdReused
from nightshift.eventlog.port import EventLog, NewEvent, RecordedEvent, account_stream

F = TypeVar("F", bound=Event)

_log = structlog.get_logger(__name__)


class Accounts:
    """Handles the requests of the owner of an account: open it, set its budget or its policy, and add money."""

    def __init__(self, log: EventLog, ledger: Ledger, days: AccountDays, wakes: Wakes) -> None:
        self._event_log = log
        self._ledger = ledger
        self._days = days
        self._wakes = wakes

    async def open(self, event: RecordedEvent, asked: AccountOpened) -> None:
        """Open an account with this budget, or change the budget of an existing account.

        Raises BadMessage for an unknown time zone.
        """
        check_time_zone(asked.time_zone)
        await self._set_period(
            event, asked.account_id, asked.period_budget_microusd, asked.period_days, asked.time_zone
        )

    async def set_budget(self, event: RecordedEvent, asked: AccountBudgetSet) -> None:
        """Give the account this budget from now on. Opens the account when it does not exist."""
        await self._set_period(event, asked.account_id, asked.period_budget_microusd, asked.period_days, None)

    async def top_up(self, event: RecordedEvent, asked: AccountToppedUp) -> None:
        """Add money to what the account may spend today, and wake its builds that sleep for money."""
        account_id = asked.account_id

        def decide(snapshot: LedgerSnapshot) -> LedgerChange:
            account, _, appends = self._days.today(account_id, snapshot)
            account = credit(account, asked.amount_microusd)
            fact = BudgetCredited(
                account_id=account_id, amount_microusd=asked.amount_microusd, day=account.day
            )
            return LedgerChange(account, joined([*appends, on_account(account_id, event.event_id, fact)]))

        def repeats(fact: BudgetCredited) -> bool:
            return fact.amount_microusd == asked.amount_microusd

        await self._once(event, account_id, decide, BudgetCredited, repeats)
        await self._wakes.wake_account(account_id)
        await self._wakes.limit_waits.wake_account(account_id)

    async def set_policy(self, event: RecordedEvent, asked: AccountPolicySet) -> None:
        """Set the policy of the account's later builds.

        Raises BadMessage for a model that cannot be used, and for an approval rule that cannot match.
        """
        for role, model in (asked.models or {}).items():
            try:
                check_usable(model, event.recorded_at.date())
            except UnknownModel as error:
                raise BadMessage(str(error), field=f"models.{role}") from None
        if asked.approvals is not None and (mistake := mistake_in(asked.approvals, None)) is not None:
            raise BadMessage(mistake[1], field=f"approvals.{mistake[0]}")
        changed = AccountPolicyChanged(
            account_id=asked.account_id,
            models=asked.models,
            approvals=asked.approvals,
            egress_hosts=asked.egress_hosts,
            build_cost_limit_microusd=asked.build_cost_limit_microusd,
            max_active_builds=asked.max_active_builds,
        )
        stream, new = account_stream(asked.account_id), NewEvent(changed, event.event_id)
        await self._event_log.append(stream, [new], expected_version=None)

    async def _set_period(
        self, event: RecordedEvent, account_id: str, budget: int, days: int, time_zone: str | None
    ) -> None:
        def decide(snapshot: LedgerSnapshot) -> LedgerChange:
            known = snapshot.account
            zone = time_zone or (known.period.time_zone if known else self._days.policy.default_time_zone)
            if known is None:
                account = self._days.open(account_id, snapshot.now, budget=budget, days=days, time_zone=zone)
                day = day_at(account.period, snapshot.now)
                opened = events.period_set(account), events.refreshed(account, day)
                return LedgerChange(account, [on_account(account_id, event.event_id, *opened)])
            account, _, appends = self._days.today(account_id, snapshot)
            period = replace(account.period, time_zone=zone, days=days)
            account = set_period_budget(account, budget, period, day_at(period, snapshot.now))
            noted = on_account(account_id, event.event_id, events.period_set(account))
            return LedgerChange(account, joined([*appends, noted]))

        def repeats(fact: BudgetPeriodSet) -> bool:
            zone_repeats = time_zone in (None, fact.time_zone)
            return zone_repeats and (fact.period_budget_microusd, fact.period_days) == (budget, days)

        await self._once(event, account_id, decide, BudgetPeriodSet, repeats)
        self._wakes.note_money(account_id)  # today's limit may have risen
        await self._wakes.limit_waits.wake_account(account_id)

    async def _once(
        self,
        event: RecordedEvent,
        account_id: str,
        decide: Decide,
        kind: type[F],
        repeats: Callable[[F], bool],
    ) -> None:
        """Write the change to the account that `decide` returns, unless the same request was handled before.

        `repeats` returns whether a recorded event has the content of this request. Raises EventIdReused when a request
        with the same id had other content.
        """
        try:
            await self._ledger.transact(account_id, decide)
        except EventIdReused:
            # The same request on a later day gives a different event with the same id, which the log refuses.
            noted_id = event_id(event.event_id, kind.type)
            recorded = await find_event(self._event_log, account_stream(account_id), noted_id)
            if recorded is None or not isinstance(recorded.data, kind):
                raise
            if not repeats(recorded.data):
                raise EventIdReused(
                    f"request {event.event_id} was noted before with other content",
                    hint="give every request its own id",
                ) from None
            _log.info("account.request_repeated", account_id=account_id, type=event.data.type)
