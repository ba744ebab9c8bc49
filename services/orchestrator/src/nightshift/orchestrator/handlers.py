"""From messages to use cases. Facts of others are hints: the runner reads from the log what happened."""

from collections.abc import Mapping
from typing import TypeVar

from nightshift.bus.port import Handler
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, WakeRequested
from nightshift.contracts.events.build import BuildCancelled
from nightshift.contracts.events.requests import (
    BuildCancelRequested,
    BuildMessageSent,
    BuildRequested,
    ToolCallApprovalGiven,
    ToolCallResultGiven,
)
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import Fault, Refused
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler
from nightshift.orchestrator.usecases.requests import Builds

E = TypeVar("E", bound=Event)


class Handlers:
    """One method per message that is listened to."""

    def __init__(self, builds: Builds, scheduler: BuildScheduler) -> None:
        self._builds = builds
        self._scheduler = scheduler

    def on_requests(self) -> Mapping[type[Event], Handler]:
        """Of the requests topic. `build.wake_asked` is the budget service's."""
        return {
            BuildRequested: self.on_build_requested,
            BuildCancelRequested: self.on_build_cancel_requested,
            BuildMessageSent: self.on_build_message_sent,
            ToolCallApprovalGiven: self.on_unsupported,
            ToolCallResultGiven: self.on_unsupported,
        }

    def on_sandboxes(self) -> Mapping[type[Event], Handler]:
        """Of the sandbox topic."""
        return {ToolCallCompleted: self.on_fact}

    def on_budgets(self) -> Mapping[type[Event], Handler]:
        """Of the budget topic."""
        return {
            BudgetGranted: self.on_fact,
            BudgetDenied: self.on_fact,
            WakeRequested: self.on_wake_requested,
        }

    def on_builds(self) -> Mapping[type[Event], Handler]:
        """Of our own topic: what another replica did to a build that runs here."""
        return {BuildCancelled: self.on_fact}

    async def on_build_requested(self, event: RecordedEvent) -> None:
        await self._builds.accept(_of(event, BuildRequested))

    async def on_build_cancel_requested(self, event: RecordedEvent) -> None:
        await self._builds.cancel(event, _of(event, BuildCancelRequested))

    async def on_build_message_sent(self, event: RecordedEvent) -> None:
        await self._builds.tell(event, _of(event, BuildMessageSent))

    async def on_unsupported(self, event: RecordedEvent) -> None:
        raise Refused(f"{event.data.type} is not supported by this version")

    async def on_fact(self, event: RecordedEvent) -> None:
        self._scheduler.hear(event.subject, event.version)

    async def on_wake_requested(self, event: RecordedEvent) -> None:
        await self._scheduler.offer(event.subject)


def _of(event: RecordedEvent, kind: type[E]) -> E:
    if not isinstance(event.data, kind):
        raise Fault(f"{event.data.type} came to the handler of {kind.type}")
    return event.data
