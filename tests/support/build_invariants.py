"""The invariants of one build's events. They share no code with what they judge."""

from collections import Counter
from collections.abc import Sequence

from nightshift.contracts.events.budget import BudgetGranted
from nightshift.contracts.events.build import (
    ApprovalRequested,
    ApprovalResolved,
    BuildAccepted,
    BuildCancelled,
    BuildFailed,
    BuildReady,
    BuildWoken,
    CheckpointSaved,
    CriteriaJudged,
    EscalationResolved,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    QuestionAsked,
    SleepRequested,
    ToolCallAnswered,
    ToolCallRequested,
)
from nightshift.contracts.events.proof import Proof
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import Event


def violations(events: Sequence[Event]) -> list[str]:
    """Every broken promise in the events of a build that has ended."""
    return [*calls(events), *money(events), *order(events), *proof(events)]


def proof(events: Sequence[Event]) -> list[str]:
    """A build is ready only with executed tests, a preview or passed checks, unless its request demanded nothing."""
    [accepted] = [e for e in events if isinstance(e, BuildAccepted)] or [None]
    ready = [e for e in events if isinstance(e, BuildReady)]
    if accepted is None or not ready:
        return []
    shown = ready[0].proof
    if shown is None or shown.mode != accepted.proof:
        return ["ready without the proof that the request demanded"]
    return [*criteria(accepted, events, shown), *_shown(accepted, events, shown)]


def criteria(accepted: BuildAccepted, events: Sequence[Event], shown: Proof) -> list[str]:
    """Every criterion of a build that is ready was found met by the last round of judging, or a person accepted it."""
    judged = [e for e in events if isinstance(e, CriteriaJudged)]
    if not accepted.criteria:
        return ["criteria were judged that nobody gave"] if judged or shown.criteria else []
    if not judged or [one.met for one in judged[-1].verdicts] != [one.met for one in shown.criteria or ()]:
        return [f"the proof does not hold the last verdicts: {shown.criteria}"]
    taken = any(e.option == "accept" for e in events if isinstance(e, EscalationResolved))
    if [one.index for one in shown.criteria or ()] != list(range(len(accepted.criteria))):
        return [f"not one verdict for each criterion: {shown.criteria}"]
    return [
        f"ready, and a criterion is not met: {one}"
        for one in shown.criteria or ()
        if not one.met and not (taken and one.accepted)
    ]


def _shown(accepted: BuildAccepted, events: Sequence[Event], shown: Proof) -> list[str]:
    if accepted.proof == "none":
        return []
    wrote = {
        e.call_id
        for e in events
        if isinstance(e, ToolCallRequested)
        and e.purpose == "agent"
        and e.tool in ("bash", "write_file", "edit_file", "document")
    } & {e.call_id for e in events if isinstance(e, ToolCallCompleted) and not e.is_error}
    kinds = {
        "tests": shown.tests_executed > 0,
        "preview": shown.preview is not None and shown.preview.status < 400,
        "checks": bool(shown.checks),
    }
    anything = kinds["tests"] or kinds["preview"] or bool(accepted.checks and wrote)
    found = (
        [] if kinds.get(str(shown.mode), anything) else [f"ready, and nothing shows that it works: {shown}"]
    )
    return found + [f"ready with a failed check: {one.name}" for one in shown.checks if not one.passed]


def calls(events: Sequence[Event]) -> list[str]:
    """Every attempt starts and ends once, every turn has one answer, every tool call one result."""
    found = []
    started = Counter(_call(e) for e in events if isinstance(e, ModelCallStarted))
    ended = Counter(_call(e) for e in events if isinstance(e, ModelCallResponded | ModelCallFailed))
    answered = Counter(e.turn for e in events if isinstance(e, ModelCallResponded) and _builds(e))
    if max(started.values(), default=1) > 1 or max(ended.values(), default=1) > 1:
        found.append("an attempt was started or ended twice")
    if started != ended:
        found.append(f"started {started - ended} and never ended, or the reverse")
    if any(count != 1 for count in answered.values()):
        found.append(f"two answers for one turn: {answered}")
    if sorted(answered) != list(range(1, len(answered) + 1)):
        found.append(f"turns {sorted(answered)} are not 1, 2, 3…")
    approved = {e.call_id: e.approved for e in events if isinstance(e, ApprovalResolved)}
    denied = [call_id for call_id, was in approved.items() if not was]
    asked = [e.call_id for e in events if isinstance(e, ToolCallRequested)]
    questions = [e.question_id for e in events if isinstance(e, QuestionAsked)]
    refused = [e.call_id for e in events if isinstance(e, ToolCallAnswered) and e.tool_use_id is not None]
    results = [e.call_id for e in events if isinstance(e, ToolCallCompleted | ToolCallAnswered)]
    waited = {e.call_id for e in events if isinstance(e, ApprovalRequested)}
    if waited != approved.keys() or waited & set(asked) - {one for one, was in approved.items() if was}:
        found.append("an approval without a decision, or a call that ran without its approval")
    ended = any(isinstance(e, BuildCancelled | BuildFailed) for e in events)
    unrun = [one for one, was in approved.items() if was and one not in asked] if ended else []
    asked += [*denied, *questions, *refused, *unrun]
    if sorted(asked) != sorted(results) or len(set(asked)) != len(asked):
        found.append("not one result per tool call")
    return found


def _call(event: ModelCallStarted | ModelCallResponded | ModelCallFailed) -> tuple[str, int, int]:
    return event.role or "builder", event.turn, event.attempt


def _builds(event: ModelCallStarted | ModelCallResponded) -> bool:
    return event.role in (None, "builder")


def money(events: Sequence[Event]) -> list[str]:
    """Every call is covered by its grant, costs at most its worst case, and is part of the bill."""
    found, free, costs, total = [], {}, {}, 0
    for event in events:
        match event:
            case BudgetGranted():
                free[event.lease_id] = event.amount_microusd
            case ModelCallStarted():
                free[event.lease_id] = free.get(event.lease_id, 0) - event.reserve_microusd
                costs[_call(event)] = (event.lease_id, event.reserve_microusd)
                if free[event.lease_id] < 0:
                    found.append(f"turn {event.turn} was started without the money for its worst case")
            case ModelCallResponded() | ModelCallFailed():
                lease, reserve = costs[_call(event)]
                free[lease] += reserve - event.cost_microusd
                total += event.cost_microusd
                if event.cost_microusd > reserve:
                    found.append(f"turn {event.turn} cost more than its worst case")
            case BuildReady() if event.cost_microusd != total:
                found.append(f"cost {event.cost_microusd} is not the sum {total}")
            case _:
                pass
    return found


def order(events: Sequence[Event]) -> list[str]:
    """A checkpoint precedes the next call and the sleep. No call starts during a sleep."""
    found, asleep, checkpoint, answered, open_calls = [], False, 0, 0, set()
    for event in events:
        match event:
            case ToolCallRequested():
                open_calls.add(event.call_id)
            case ToolCallCompleted() | ToolCallAnswered():
                open_calls.discard(event.call_id)
            case CheckpointSaved():
                checkpoint = event.turn
                if open_calls:
                    found.append(f"checkpoint of turn {event.turn} before its results")
            case ModelCallStarted():
                if asleep:
                    found.append(f"turn {event.turn} was begun asleep")
                if _builds(event) and event.turn > 1 and checkpoint < event.turn - 1:
                    found.append(f"turn {event.turn} was begun without the checkpoint before it")
            case ModelCallResponded() if _builds(event):
                answered = event.turn
            case SleepRequested():
                asleep = True
                if checkpoint < answered:
                    found.append("asleep without a checkpoint")
            case BuildWoken():
                asleep = False
            case _:
                pass
    return found
