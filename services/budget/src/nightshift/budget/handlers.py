"""Maps each message that the budget service reads to a use case. The bus decides what follows an error."""

from collections.abc import Mapping

from nightshift.budget.usecases.accounts import Accounts
from nightshift.budget.usecases.grants import Grants
from nightshift.budget.usecases.wakes import Wakes
from nightshift.bus.port import Handler
from nightshift.contracts.events.account import (
    AccountBudgetSet,
    AccountOpened,
    AccountPolicySet,
    AccountToppedUp,
)
from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildCancelled,
    BuildFailed,
    BuildReady,
    BuildWaiting,
    SleepRequested,
)
from nightshift.contracts.events.requests import BuildWakeAsked
from nightshift.contracts.model import Event
from nightshift.eventlog.port import RecordedEvent


class Handlers:
    """The message handlers. A message may arrive again at any time, and messages may arrive in any order."""

    def __init__(self, grants: Grants, accounts: Accounts, wakes: Wakes) -> None:
        self._grants = grants
        self._accounts = accounts
        self._wakes = wakes

    def on_requests(self) -> Mapping[type[Event], Handler]:
        """Return the handlers of the requests topic, by event type."""
        return {
            AccountOpened: self.on_account_opened,
            AccountBudgetSet: self.on_account_budget_set,
            AccountToppedUp: self.on_account_topped_up,
            AccountPolicySet: self.on_account_policy_set,
            BuildWakeAsked: self.on_build_wake_asked,
        }

    def on_builds(self) -> Mapping[type[Event], Handler]:
        """Return the handlers of the build topic, by event type.

        They handle requests for money, and events after which a build needs no money for now.
        """
        ends = (BuildReady, BuildFailed, BuildCancelled)
        handlers: dict[type[Event], Handler] = dict.fromkeys(ends, self._grants.end_build)
        handlers[SleepRequested] = self.on_sleep_requested
        handlers[BudgetRequested] = self.on_budget_requested
        handlers[BuildWaiting] = self.on_build_waiting
        return handlers

    async def on_budget_requested(self, event: RecordedEvent) -> None:
        if isinstance(event.data, BudgetRequested):
            await self._grants.answer(event, event.data)

    async def on_sleep_requested(self, event: RecordedEvent) -> None:
        """Settle the reservations that were granted before the build slept. Reservations granted later stay open."""
        await self._grants.settle_build(event.subject, granted_before=event.version)
        if isinstance(event.data, SleepRequested):
            self._wakes.note_sleep(event.data)

    async def on_build_waiting(self, event: RecordedEvent) -> None:
        """Settle the reservations of a build that waits, except that of a call still running, because its cost is
        unknown.

        The orchestrator stops that call and appends a second `build.waiting`. A build that waits for a larger budget is
        woken at once when its budget was raised before it began to wait.
        """
        await self._grants.settle_build(event.subject, granted_before=event.version, in_flight=False)
        await self._grants.stop_waiting(event.subject)
        if isinstance(event.data, BuildWaiting) and event.data.reason == "escalation":
            await self._wakes.limit_waits.wake_build(event.subject)

    async def on_account_opened(self, event: RecordedEvent) -> None:
        if isinstance(event.data, AccountOpened):
            await self._accounts.open(event, event.data)

    async def on_account_budget_set(self, event: RecordedEvent) -> None:
        if isinstance(event.data, AccountBudgetSet):
            await self._accounts.set_budget(event, event.data)

    async def on_account_topped_up(self, event: RecordedEvent) -> None:
        if isinstance(event.data, AccountToppedUp):
            await self._accounts.top_up(event, event.data)

    async def on_account_policy_set(self, event: RecordedEvent) -> None:
        if isinstance(event.data, AccountPolicySet):
            await self._accounts.set_policy(event, event.data)

    async def on_build_wake_asked(self, event: RecordedEvent) -> None:
        await self._wakes.wake_asked(event)
