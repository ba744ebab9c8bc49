"""Which service reads which event from Kafka. A test compares this table with the subscriptions of every service."""

from collections.abc import Iterator, Mapping
from typing import Final

from nightshift.contracts.events.account import AccountBudgetSet, AccountOpened, AccountToppedUp
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, WakeRequested
from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildCancelled,
    BuildFailed,
    BuildReady,
    BuildWaiting,
    CheckpointSaved,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.requests import (
    BuildAnswerGiven,
    BuildCancelRequested,
    BuildLimitsSet,
    BuildMessageSent,
    BuildPauseRequested,
    BuildRequested,
    BuildResumeRequested,
    BuildWakeAsked,
    ToolCallApprovalGiven,
    ToolCallResultGiven,
)
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event, Owner
from nightshift.contracts.topics import FAMILIES

#: Service → the events it has a handler for. It joins one consumer group for each topic among them.
SUBSCRIPTIONS: Final[Mapping[Owner, frozenset[type[Event]]]] = {
    Owner.ORCHESTRATOR: frozenset(
        {
            BuildRequested,
            BuildCancelRequested,
            BuildMessageSent,
            BuildAnswerGiven,
            BuildPauseRequested,
            BuildResumeRequested,
            BuildLimitsSet,
            ToolCallApprovalGiven,
            ToolCallResultGiven,
            ToolCallCompleted,
            BudgetGranted,
            BudgetDenied,
            WakeRequested,
            BuildCancelled,
            BuildWaiting,
        }
    ),
    Owner.SANDBOX_GATEWAY: frozenset(
        {
            ToolCallRequested,
            SleepRequested,
            BuildReady,
            BuildFailed,
            BuildCancelled,
            SnapshotSaved,
            SnapshotFailed,
        }
    ),
    Owner.SNAPSHOTTER: frozenset({CheckpointSaved, SleepRequested, BuildReady, BuildFailed, BuildCancelled}),
    Owner.BUDGET: frozenset(
        {
            AccountOpened,
            AccountBudgetSet,
            AccountToppedUp,
            BuildWakeAsked,
            BudgetRequested,
            SleepRequested,
            BuildWaiting,
            BuildReady,
            BuildFailed,
            BuildCancelled,
        }
    ),
}

#: The pairs of service and topic family where each replica reads everything, in a consumer group of its own.
#: Any replica of the orchestrator may be the one that runs the build.
EVERY_REPLICA: Final[frozenset[tuple[Owner, str]]] = frozenset(
    (Owner.ORCHESTRATOR, family) for family in ("build", "sandbox", "budget")
)


def readers_of(model: type[Event]) -> tuple[Owner, ...]:
    """The services that handle this event type, in a fixed order."""
    return tuple(service for service, models in SUBSCRIPTIONS.items() if model in models)


def subscribed() -> Iterator[tuple[Owner, str, frozenset[type[Event]]]]:
    """Each service with each topic family that it subscribes to, and the event types it handles there."""
    for service, models in SUBSCRIPTIONS.items():
        for owner, family in FAMILIES.items():
            handled = frozenset(model for model in models if model.owner is owner)
            if handled:
                yield service, family, handled
