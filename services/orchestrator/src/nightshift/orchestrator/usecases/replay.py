"""The fold and the decisions of builds, for programs that read a log to replay, verify or compare it, such as the
CLI.
"""

from collections.abc import Iterable, Iterator, Sequence

from nightshift.eventlog.errors import Fault, NightshiftError
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain import verification
from nightshift.orchestrator.domain.evolve import evolve
from nightshift.orchestrator.domain.forks import ForkPoint, may_rewind
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import INITIAL, BuildState
from nightshift.orchestrator.domain.verification import Difference, Kind, Verification

__all__ = [
    "INITIAL",
    "BuildState",
    "Difference",
    "Kind",
    "Verification",
    "check_turn",
    "fold",
    "may_rewind",
    "state_after",
    "states",
    "verify",
]


def fold(state: BuildState, event: RecordedEvent) -> BuildState:
    """Return the state after `event`. Raises Fault, which names the version, when the event cannot follow `state`."""
    try:
        return evolve(state, event)
    except NightshiftError as error:
        raise _unfoldable(event, str(error)) from error
    except Exception as error:
        raise _unfoldable(event, f"{type(error).__name__}: {error}") from error


def states(events: Iterable[RecordedEvent]) -> Iterator[BuildState]:
    """Yield the state after each event of a build's stream. Raises Fault for an event that cannot be folded."""
    state = INITIAL
    for event in events:
        state = fold(state, event)
        yield state


def state_after(events: Iterable[RecordedEvent]) -> BuildState:
    """Return the state after the last event of a build's stream. Raises Fault for an event that cannot be folded."""
    state = INITIAL
    for event in events:
        state = fold(state, event)
    return state


def check_turn(events: Sequence[RecordedEvent], turn: int) -> None:
    """Raise BadMessage, with the reason, when no fork or rewind can start at the end of this turn."""
    point = ForkPoint(events[0].subject, turn)
    for event, state in zip(events, states(events), strict=True):
        point.read(event, state)
    point.base()


def verify(
    events: Sequence[RecordedEvent],
    *,
    kinds: frozenset[Kind] = frozenset({"decision"}),
    policy: Policy | None = None,
) -> Verification:
    """Make every decision of a build again, and return the first difference whose kind is in `kinds`.

    `events` are the whole stream. Raises Fault, which names the version, for a log that cannot be folded.
    """
    state_after(events)
    return verification.verify(events, policy, kinds=kinds)


def _unfoldable(event: RecordedEvent, why: str) -> Fault:
    return Fault(f"version {event.version} of {event.stream_id} ({event.data.type}): {why}")
