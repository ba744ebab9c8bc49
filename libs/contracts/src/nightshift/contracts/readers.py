"""Lists which service handles which events from Kafka. A test compares the list with the real subscriptions."""

from collections.abc import Iterator, Mapping
from typing import Final

from nightshift.contracts.events import account, budget, build, requests, sandbox, snapshot
from nightshift.contracts.model import Event, Owner
from nightshift.contracts.topics import FAMILIES

_ENDS: Final[frozenset[type[Event]]] = frozenset({build.BuildReady, build.BuildFailed, build.BuildCancelled})

#: Service → the events for which it has a handler. A service has one consumer group for each topic among them.
SUBSCRIPTIONS: Final[Mapping[Owner, frozenset[type[Event]]]] = {
    Owner.ORCHESTRATOR: frozenset(
        {
            requests.BuildRequested,
            requests.BuildCancelRequested,
            requests.BuildMessageSent,
            requests.BuildAnswerGiven,
            requests.BuildPauseRequested,
            requests.BuildResumeRequested,
            requests.BuildRewindRequested,
            requests.BuildLimitsSet,
            requests.ToolCallApprovalGiven,
            requests.ToolCallResultGiven,
            sandbox.ToolCallCompleted,
            budget.BudgetGranted,
            budget.BudgetDenied,
            budget.WakeRequested,
            build.BuildCancelled,
            build.BuildWaiting,
        }
    ),
    Owner.SANDBOX_GATEWAY: frozenset(
        {
            build.ToolCallRequested,
            build.SleepRequested,
            *_ENDS,
            snapshot.SnapshotSaved,
            snapshot.SnapshotFailed,
        }
    ),
    Owner.SNAPSHOTTER: frozenset(
        {
            build.CheckpointSaved,
            build.SleepRequested,
            *_ENDS,
        }
    ),
    Owner.BUDGET: frozenset(
        {
            account.AccountOpened,
            account.AccountBudgetSet,
            account.AccountToppedUp,
            account.AccountPolicySet,
            requests.BuildWakeAsked,
            build.BudgetRequested,
            build.SleepRequested,
            build.BuildWaiting,
            *_ENDS,
        }
    ),
}

#: (Service, topic family) where each replica reads the whole topic in a consumer group of its own. Any replica of the
#: orchestrator may be the one that runs the build.
EVERY_REPLICA: Final[frozenset[tuple[Owner, str]]] = frozenset(
    (Owner.ORCHESTRATOR, family) for family in ("build", "sandbox", "budget")
)


def readers_of(model: type[Event]) -> tuple[Owner, ...]:
    """Returns the services that handle this event type, in a fixed order."""
    return tuple(service for service, models in SUBSCRIPTIONS.items() if model in models)


def subscribed() -> Iterator[tuple[Owner, str, frozenset[type[Event]]]]:
    """Yields (service, topic, event types) for each topic that a service reads. The topic is a family name, such as
    `build`.
    """
    for service, models in SUBSCRIPTIONS.items():
        for owner, family in FAMILIES.items():
            handled = frozenset(model for model in models if model.owner is owner)
            if handled:
                yield service, family, handled
