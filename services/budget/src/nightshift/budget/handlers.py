"""What the budget listens to. Each takes the event to its use case; what happens to an error is the bus's to decide."""

from collections.abc import Mapping

from nightshift.budget.usecases import Budget
from nightshift.bus.port import Handler
from nightshift.contracts.events.account import AccountBudgetSet, AccountOpened, AccountToppedUp
from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildCancelled,
    BuildFailed,
    BuildReady,
    SleepRequested,
)
from nightshift.contracts.events.requests import BuildWakeAsked
from nightshift.contracts.model import Event
from nightshift.eventlog.port import RecordedEvent


class Handlers:
    """The handlers over one budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def on_requests(self) -> Mapping[type[Event], Handler]:
        """What people and products ask."""
        return {
            AccountOpened: self.on_account_opened,
            AccountBudgetSet: self.on_account_budget_set,
            AccountToppedUp: self.on_account_topped_up,
            BuildWakeAsked: self.on_build_wake_asked,
        }

    def on_builds(self) -> Mapping[type[Event], Handler]:
        """What builds ask, and when they need their money no longer."""
        ends = (SleepRequested, BuildReady, BuildFailed, BuildCancelled)
        return {BudgetRequested: self.on_budget_requested} | dict.fromkeys(ends, self.on_build_at_rest)

    async def on_budget_requested(self, event: RecordedEvent) -> None:
        if isinstance(event.data, BudgetRequested):
            await self._budget.answer(event, event.data)

    async def on_build_at_rest(self, event: RecordedEvent) -> None:
        await self._budget.settle_build(event.subject)
        if isinstance(event.data, SleepRequested):
            self._budget.note_sleep(event.data)

    async def on_account_opened(self, event: RecordedEvent) -> None:
        if isinstance(event.data, AccountOpened):
            await self._budget.open(event, event.data)

    async def on_account_budget_set(self, event: RecordedEvent) -> None:
        if isinstance(event.data, AccountBudgetSet):
            await self._budget.set_budget(event, event.data)

    async def on_account_topped_up(self, event: RecordedEvent) -> None:
        if isinstance(event.data, AccountToppedUp):
            await self._budget.top_up(event, event.data)

    async def on_build_wake_asked(self, event: RecordedEvent) -> None:
        await self._budget.wake_asked(event.subject)
