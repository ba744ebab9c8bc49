"""The orchestrator's subscriptions, with one method for each type of message.

A fact of another service only makes the run of its build read the log. What happened is read there.
"""

from collections.abc import Mapping
from typing import TypeVar

from nightshift.bus.port import Handler, Subscription
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, WakeRequested
from nightshift.contracts.events.build import BuildCancelled, BuildWaiting
from nightshift.contracts.events.requests import (
    BuildAnswerGiven,
    BuildCancelRequested,
    BuildLimitsSet,
    BuildMessageSent,
    BuildPauseRequested,
    BuildRequested,
    BuildResumeRequested,
    BuildRewindRequested,
    ToolCallApprovalGiven,
    ToolCallResultGiven,
)
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import Event
from nightshift.contracts.topics import Topics
from nightshift.eventlog.errors import Fault
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.usecases.build_requests import BuildRequests
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler

E = TypeVar("E", bound=Event)

#: Seconds that a fetch from the build topic may wait for more records. It may be long, because only a cancel or a pause
#: by another replica matters there.
_BUILD_TOPIC_DELAY_S = 0.1


class Handlers:
    """Handles requests and facts. A method that runs again for the same message changes nothing."""

    def __init__(self, requests: BuildRequests, scheduler: BuildScheduler) -> None:
        self._requests = requests
        self._scheduler = scheduler

    def subscriptions(self, topics: Topics, service: str, replica_id: str) -> list[Subscription]:
        """Return the subscriptions of this replica.

        Each request is read by one of the replicas. Each fact is read by every replica, because any replica may run the
        build that the fact is about.
        """

        def facts(
            topic: str, handlers: Mapping[type[Event], Handler], *, delay_s: float = 0.0
        ) -> Subscription:
            group = topics.replica_group(service, topic, replica_id)
            return Subscription(topic, group, handlers, from_now=True, max_fetch_delay_s=delay_s)

        return [
            Subscription(topics.requests, topics.group(service, topics.requests), self.on_requests()),
            facts(topics.sandbox, self.on_sandboxes()),
            facts(topics.budget, self.on_budgets()),
            facts(topics.build, self.on_builds(), delay_s=_BUILD_TOPIC_DELAY_S),
        ]

    def on_requests(self) -> Mapping[type[Event], Handler]:
        """Return the handlers for the requests topic. The budget service handles `build.wake_asked`."""
        return {
            BuildRequested: self.on_build_requested,
            BuildCancelRequested: self.on_build_cancel_requested,
            BuildMessageSent: self.on_build_message_sent,
            BuildAnswerGiven: self.on_build_answer_given,
            BuildPauseRequested: self.on_build_pause_requested,
            BuildResumeRequested: self.on_build_resume_requested,
            BuildRewindRequested: self.on_build_rewind_requested,
            BuildLimitsSet: self.on_build_limits_set,
            ToolCallApprovalGiven: self.on_tool_call_approval_given,
            ToolCallResultGiven: self.on_tool_call_result_given,
        }

    def on_sandboxes(self) -> Mapping[type[Event], Handler]:
        """Return the handlers for the sandbox topic."""
        return {ToolCallCompleted: self.on_fact}

    def on_budgets(self) -> Mapping[type[Event], Handler]:
        """Return the handlers for the budget topic."""
        return {
            BudgetGranted: self.on_fact,
            BudgetDenied: self.on_fact,
            WakeRequested: self.on_wake_requested,
        }

    def on_builds(self) -> Mapping[type[Event], Handler]:
        """Return the handlers for the build topic. Another replica may cancel or pause a build that runs here."""
        return {BuildCancelled: self.on_fact, BuildWaiting: self.on_fact}

    async def on_build_requested(self, event: RecordedEvent) -> None:
        await self._requests.accept(_data(event, BuildRequested))

    async def on_build_cancel_requested(self, event: RecordedEvent) -> None:
        await self._requests.cancel(event, _data(event, BuildCancelRequested))

    async def on_build_message_sent(self, event: RecordedEvent) -> None:
        await self._requests.add_message(event, _data(event, BuildMessageSent))

    async def on_build_answer_given(self, event: RecordedEvent) -> None:
        await self._requests.answer(event, _data(event, BuildAnswerGiven))

    async def on_build_pause_requested(self, event: RecordedEvent) -> None:
        await self._requests.pause(event, _data(event, BuildPauseRequested))

    async def on_build_resume_requested(self, event: RecordedEvent) -> None:
        await self._requests.resume(event, _data(event, BuildResumeRequested))

    async def on_build_rewind_requested(self, event: RecordedEvent) -> None:
        await self._requests.rewind(event, _data(event, BuildRewindRequested))

    async def on_build_limits_set(self, event: RecordedEvent) -> None:
        await self._requests.set_limits(event, _data(event, BuildLimitsSet))

    async def on_tool_call_approval_given(self, event: RecordedEvent) -> None:
        await self._requests.approve(event, _data(event, ToolCallApprovalGiven))

    async def on_tool_call_result_given(self, event: RecordedEvent) -> None:
        await self._requests.give_result(event, _data(event, ToolCallResultGiven))

    async def on_fact(self, event: RecordedEvent) -> None:
        self._scheduler.notify(event.subject, event.version)

    async def on_wake_requested(self, event: RecordedEvent) -> None:
        await self._scheduler.start(event.subject)


def _data(event: RecordedEvent, kind: type[E]) -> E:
    if not isinstance(event.data, kind):
        raise Fault(f"the handler of {kind.type} received {event.data.type}")
    return event.data
