"""`verify(events)` makes every recorded decision again with today's code, and reports the first difference. Pure.

The log does not contain the clock and the settings of the process that decided. So `verify` searches for a time before
the append, and for an output limit, with which today's code gives the recorded events. When it finds them, the decision
counts as equal.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from nightshift.contracts import ids
from nightshift.contracts.events.build import (
    BudgetRequested,
    BuildAccepted,
    EscalationRaised,
    ModelCallResponded,
    ModelCallStarted,
    ToolCallRequested,
)
from nightshift.contracts.marks import sealed_fields
from nightshift.contracts.model import Event, Owner
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain.commands import Command
from nightshift.orchestrator.domain.decide import causes, decide
from nightshift.orchestrator.domain.evolve import evolve
from nightshift.orchestrator.domain.next_step import worst_case
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.recorded_commands import recorded_command
from nightshift.orchestrator.domain.state import INITIAL, BuildState

#: What differs: the decision itself, a text for a person or the agent, an amount that depends on settings, or an id.
Kind = Literal["decision", "text", "amount", "id"]

#: How long before its append a decision may have been made, and how far its clock may differ from the database's.
_APPEND: Final = timedelta(seconds=15)
_AMOUNTS: Final = frozenset({"amount_microusd", "minimum_microusd", "reserve_microusd"})
#: Fields that are settings named by `build.accepted`, and facts that no decision can make again.
_GIVEN: Final[Mapping[type[Event], frozenset[str]]] = {
    BuildAccepted: frozenset(
        {
            "turn_limit",
            "tool_call_limit",
            "model",
            "models",
            "effort",
            "approvals",
            "cost_limit_microusd",
            "max_active_builds",
        }
    ),
    ModelCallResponded: frozenset({"repaired"}),
    EscalationRaised: frozenset({"deadline"}),  # earlier versions left it out
}
_PRICED: Final = frozenset({"price_version", "cost_microusd"})


@dataclass(frozen=True, slots=True)
class Difference:
    """A place in the stream where today's code decides something else than the log contains.

    `recorded` is the event in the log, or None when the log has no event there. `decided` is the event of today's code,
    or None when it decides none.
    """

    version: int
    kind: Kind
    command: str
    recorded: Event | None
    decided: Event | None
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of `verify` for one build.

    `unchecked` counts, by type, the events whose command cannot be found in the log. `tolerated` counts the differences
    of kinds that the caller did not ask for.
    """

    build_id: str
    version: int
    decisions: int
    difference: Difference | None
    tolerated: Mapping[Kind, int] = field(default_factory=dict)
    unchecked: Mapping[str, int] = field(default_factory=dict)


def verify(
    events: Sequence[RecordedEvent],
    policy: Policy | None = None,
    *,
    kinds: frozenset[Kind] = frozenset({"decision"}),
) -> Verification:
    """Make every decision in a build's stream again, and return the first difference whose kind is in `kinds`.

    `events` are the whole stream, with the large fields fetched from the object store. Raises Fault, which names the
    version, for a log that cannot be folded.
    """
    check = _Check(policy or Policy(), kinds)
    state, place = INITIAL, 0
    while place < len(events) and check.difference is None:
        event = events[place]
        steps = 1
        if event.data.owner is Owner.ORCHESTRATOR:
            steps = check.decision(state, _decided_together(events, place))
        for one in events[place : place + steps]:
            state = evolve(state, one)
        place += steps
    return Verification(
        events[0].subject if events else "",
        state.version,
        check.decisions,
        check.difference,
        check.tolerated,
        check.unchecked,
    )


def _decided_together(events: Sequence[RecordedEvent], place: int) -> Sequence[RecordedEvent]:
    """Return the events from `place` on that may come from one append: events of the orchestrator without a gap."""
    end = place + 1
    while end < len(events) and events[end].data.owner is Owner.ORCHESTRATOR:
        end += 1
    return events[place:end]


class _Check:
    """Makes decisions again and compares them. Finds out the settings of the process that decided."""

    def __init__(self, policy: Policy, kinds: frozenset[Kind]) -> None:
        self.policy = policy
        self.kinds = kinds
        self.decisions = 0
        self.difference: Difference | None = None
        self.tolerated: Counter[Kind] = Counter()
        self.unchecked: Counter[str] = Counter()
        self._cause: UUID | None = None  # the cause of the last decision

    def decision(self, state: BuildState, recorded: Sequence[RecordedEvent]) -> int:
        """Make the decision at the beginning of `recorded` again, and note how it differs.

        Returns the number of events that the decision has, at least 1.
        """
        if isinstance(fact := recorded[0].data, BuildAccepted):
            self.policy = replace(
                self.policy, turn_limit=fact.turn_limit, tool_call_limit=fact.tool_call_limit
            )
        best: _Attempt | None = None
        known = self.policy
        for policy, now in self._settings(state, recorded):
            attempt = _attempt(state, recorded, now, policy)
            if attempt is None:
                continue
            # With other tools than then no limit gives the recorded amount. The solved one comes nearest to it.
            nearer = best is not None and policy is not known and attempt.rank == best.rank
            if best is None or nearer or attempt.rank < best.rank:
                best, self.policy = attempt, policy
            if not attempt.differences:
                break
        if best is None or (best.broken and self._is_from_outside(state, recorded[0])):
            # An event with the same cause as the decision before it was a part of that decision.
            if self._is_from_outside(state, recorded[0]) and recorded[0].causation_id != self._cause:
                self.unchecked[recorded[0].data.type] += 1
            else:
                waits = Difference(recorded[0].version, "decision", "waits", recorded[0].data, None)
                self.difference = waits if best is None else best.differences[0]
            return 1
        self._cause = best.cause
        self.decisions += 1
        for difference in best.differences:
            if difference.kind in self.kinds:
                self.difference = self.difference or difference
            else:
                self.tolerated[difference.kind] += 1
        return max(best.events, 1)

    def _settings(
        self, state: BuildState, recorded: Sequence[RecordedEvent]
    ) -> Iterator[tuple[Policy, datetime]]:
        """Yield the settings and times that the deciding process may have had, the most likely ones first."""
        at = recorded[0].recorded_at
        times = [at, *_edges(state, at)]
        yield from ((self.policy, now) for now in times)
        solved = _with_output_limit(state, recorded, self.policy)
        if solved is not None:
            yield from ((solved, now) for now in times)

    def _is_from_outside(self, state: BuildState, event: RecordedEvent) -> bool:
        """Return whether a request caused the event, and not an earlier event of the build.

        The log may not contain the command of such a request.
        """
        own = {state.cause, None if state.call is None else state.call.event_id}
        return event.causation_id not in own


@dataclass(frozen=True, slots=True)
class _Attempt:
    differences: tuple[Difference, ...]
    events: int
    cause: UUID | None = None

    @property
    def broken(self) -> bool:
        return any(one.kind == "decision" for one in self.differences)

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        other_type = sum(not one.fields for one in self.differences)  # it says less than a field that differs
        fields = sum(len(one.fields) for one in self.differences)
        return self.broken, other_type, len(self.differences), fields


def _attempt(
    state: BuildState, recorded: Sequence[RecordedEvent], now: datetime, policy: Policy
) -> _Attempt | None:
    command = recorded_command(state, recorded, now, policy)
    if command is None:
        return None
    decided = decide(state, command, now, policy)
    name = type(command).__name__
    if not decided:
        missing = Difference(recorded[0].version, "decision", name, recorded[0].data, None)
        return _Attempt((missing,), 1)
    differences = list(_compared(recorded, decided, name))
    if not any(one.kind == "decision" for one in differences):
        differences += _ids_compared(state, command, recorded, decided)
    cause = causes(state, command, decided)[-1]
    return _Attempt(tuple(differences), min(len(decided), len(recorded)), cause)


def _compared(
    recorded: Sequence[RecordedEvent], decided: Sequence[Event], command: str
) -> Iterator[Difference]:
    for place, event in enumerate(decided):
        if place >= len(recorded):
            yield Difference(recorded[-1].version + 1, "decision", command, None, event)
            return
        known = recorded[place].data
        if type(known) is not type(event):
            yield Difference(recorded[place].version, "decision", command, known, event)
            return
        found = _differing(known, event)
        for kind in ("decision", "amount", "text", "id"):
            names = tuple(name for name, its in found.items() if its == kind)
            if names:
                yield Difference(recorded[place].version, kind, command, known, event, names)


def _differing(recorded: Event, decided: Event) -> dict[str, Kind]:
    """Return the fields that differ, each with the kind of its difference."""
    skipped = _GIVEN.get(type(recorded), frozenset())
    if recorded.__dict__.get("price_version") != decided.__dict__.get("price_version"):
        skipped |= _PRICED  # the prices were others on that day
    found: dict[str, Kind] = {}
    for name, value in decided.__dict__.items():
        before = recorded.__dict__.get(name)
        if name in skipped or value == before or _same_time(before, value):
            continue
        found[name] = _kind(recorded, name)
    return found


def _kind(event: Event, name: str) -> Kind:
    if name in _AMOUNTS:
        return "amount"
    if name == "lease_id" and isinstance(event, BudgetRequested):
        return "id"
    if name == "content" or (isinstance(event, ToolCallRequested) and event.purpose == "agent"):
        return "decision"
    # The time limit of a check belongs to the text of its command.
    if name in sealed_fields(type(event)) or name == "action" or isinstance(event, ToolCallRequested):
        return "text"
    return "decision"


def _same_time(recorded: Any, decided: Any) -> bool:
    return (
        isinstance(recorded, datetime)
        and isinstance(decided, datetime)
        and abs(recorded - decided) <= _APPEND
    )


def _ids_compared(
    state: BuildState, command: Command, recorded: Sequence[RecordedEvent], decided: Sequence[Event]
) -> Iterator[Difference]:
    """Yield a difference for the first event whose id would be another one today, if there is such an event."""
    seen: Counter[tuple[object, str]] = Counter()
    for one, event, cause in zip(recorded, decided, causes(state, command, tuple(decided)), strict=False):
        event_id = ids.event_id(cause, event.type, seen[cause, event.type])
        seen[cause, event.type] += 1
        if one.event_id != event_id:
            yield Difference(one.version, "id", type(command).__name__, one.data, event, ("event_id",))
            return


def _edges(state: BuildState, at: datetime) -> list[datetime]:
    """Return the times close to `at`, the time of the append, at which `next_step` can return another step for this
    state.
    """
    times: list[datetime | None] = [state.counters.retry_at, state.funds.refused_until, state.waits_until]
    times += [question.deadline for question in state.questions]
    times += [grant.expires_at - timedelta(seconds=5) for grant in state.funds.grants]
    if state.accepted is not None:
        times.append(state.accepted.deadline)
    near = [one for one in times if one is not None and at - _APPEND <= one <= at + _APPEND]
    instant = timedelta(microseconds=1)
    return sorted({moment for one in near for moment in (one - instant, one, one + instant)}, reverse=True)


def _with_output_limit(state: BuildState, recorded: Sequence[RecordedEvent], policy: Policy) -> Policy | None:
    """Return the policy with the output limit for which the next call's worst case is the recorded amount of money.

    Returns None when the recorded events contain no such amount.
    """
    amounts = (
        one.data.reserve_microusd if isinstance(one.data, ModelCallStarted) else one.data.minimum_microusd
        for one in recorded
        if isinstance(one.data, ModelCallStarted | BudgetRequested)
    )
    wanted = next(amounts, None)
    if wanted is None or (state.accepted is None and not isinstance(recorded[0].data, BuildAccepted)):
        return None
    if state.accepted is None:
        state = evolve(state, recorded[0])
    low, high = 0, 1_000_000
    while low < high:
        middle = (low + high) // 2
        if worst_case(state, replace(policy, max_output_tokens=middle, thinking_tokens=0)) < wanted:
            low = middle + 1
        else:
            high = middle
    if low and worst_case(state, replace(policy, max_output_tokens=low, thinking_tokens=0)) > wanted:
        # The prompt is another one, so no limit gives the same amount, and the recorded grant must cover it.
        low -= 1
    return replace(policy, max_output_tokens=low, thinking_tokens=0)
