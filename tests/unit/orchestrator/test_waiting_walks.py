"""Random orders of answers, approvals, results, messages, pauses and cancels: what holds for a build of people."""

import random
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import build_invariants
from tests.unit.orchestrator.build_scenario import REQUEST, BuildScenario, answer, completed, text, tool_use

from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.events.build import (
    ApprovalRequested,
    ApprovalResolved,
    BuildResumed,
    BuildWaiting,
    EscalationRaised,
    EscalationResolved,
    ModelCallResponded,
    ModelCallStarted,
    QuestionAsked,
    ToolCallAnswered,
    ToolCallRequested,
)
from nightshift.contracts.events.requests import CustomTool
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import Event, PendingKind
from nightshift.orchestrator.domain.commands import (
    AnswerQuestion,
    CancelBuild,
    Complete,
    GiveApproval,
    GiveResult,
    MessageAgent,
    PauseBuild,
    ResumeBuild,
    SetLimits,
    Step,
)
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import RunMode, ToolResults

MOVES = st.lists(st.integers(0, 23), min_size=10, max_size=80)
SCHEMA = {"type": "object", "properties": {"cents": {"type": "integer"}}}
TOOL = CustomTool(name="pay", description="Pays.", input_schema=SCHEMA, timeout_s=90)
ASKS = ApprovalPolicy(ask=("bash(git push *)", "pay"), deadline_s=200)


def walk(moves: list[int]) -> BuildScenario:
    policy = ASKS if sum(moves) % 3 else ApprovalPolicy(ask=("bash(git push *)",))
    request = REQUEST.model_copy(update={"tools": (TOOL,), "approvals": policy})
    scenario = BuildScenario(policy=Policy(turn_limit=3, tool_call_limit=12), request=request)
    for number, move in enumerate(moves):
        _move(scenario, move, UUID(int=10_000 + number), number)
    return scenario


def _move(scenario: BuildScenario, move: int, cause: UUID, number: int) -> None:
    state, step = scenario.state, scenario.next()
    open_calls = [call.call_id for call in state.tool_calls if call.result is None]
    inside = set(open_calls) - state.open_outside - {call.call_id for call in state.approved_calls}
    match move:
        case 0:
            scenario.do(PauseBuild(None, cause))
        case 1 | 2:
            scenario.do(ResumeBuild(cause))
        case 3:
            scenario.do(MessageAgent("Faster.", cause))
        case 4:
            scenario.do(SetLimits(3 + number // 8, 12 + number // 4, cause))
        case 5 if number > 60:
            scenario.do(CancelBuild("enough", cause))
        case 6 | 7 | 8 if state.questions:
            question = state.questions[number % len(state.questions)]
            option = question.options[number % len(question.options)] if question.options else None
            scenario.do(AnswerQuestion(question.question_id, option, "So.", cause))
        case 9 | 10 if state.approvals:
            approval = state.approvals[number % len(state.approvals)]
            scenario.do(
                GiveApproval(approval.call.call_id, approved=number % 3 > 0, comment="So.", cause=cause)
            )
        case 11 | 12 if state.customer_calls:
            call = state.customer_calls[number % len(state.customer_calls)]
            scenario.do(GiveResult(call.call_id, is_error=number % 3 == 0, output="paid", cause=cause))
        case _ if state.mode is RunMode.ENDED:
            pass  # the log refuses the facts of other services
        case _ if inside:
            left = sorted(inside)
            scenario.others(completed(left[number % len(left)]))
        case _ if isinstance(step, Step):
            scenario.do(Complete(1) if isinstance(step, Complete) else step)
        case _ if state.call is not None:
            uses = [
                tool_use("ask_user", {"question": f"{number}?"}, id=f"q{number}"),
                tool_use(given={"command": f"echo {number}"}, id=f"t{number}"),
                tool_use("ask_user", {"question": "2?", "deadline_s": 50, "default": "x"}, id=f"r{number}"),
                tool_use("pay", {"cents": number if number % 4 else "many"}, id=f"p{number}"),
                tool_use(given={"command": f"git push {number}"}, id=f"a{number}"),
            ]
            kept = [use for place, use in enumerate(uses) if move >> place & 1]
            scenario.do(answer(*(kept or [text()])))
        case _ if state.funds.asked is not None:
            scenario.granted()
        case _:
            scenario.passes(60)


def broken(events: list[Event]) -> list[str]:
    """Every broken promise about calls, questions and waits."""
    found: list[str] = []
    open_calls: list[str] = []
    ended: set[str] = set()
    approvals: dict[str, bool | None] = {}
    waiting = False
    for event in events:
        match event:
            case ApprovalRequested():
                approvals[event.call_id] = None
                open_calls.append(event.call_id)
            case ApprovalResolved():
                if approvals.get(event.call_id, True) is not None:
                    found.append(f"{event.call_id} was decided twice, or never asked about")
                approvals[event.call_id] = event.approved
            case ToolCallRequested() if event.call_id in approvals:
                if not approvals[event.call_id]:
                    found.append(f"{event.call_id} was requested without an approval")
            case ToolCallRequested():
                if event.tool == "bash" and "git push" in str(event.input):
                    found.append(f"{event.call_id} was requested without being asked about")
                open_calls.append(event.call_id)
            case QuestionAsked():
                open_calls.append(event.question_id)
            case ToolCallAnswered() if event.tool_use_id is not None:
                ended.add(event.call_id)  # refused before it was requested
            case ToolCallCompleted() | ToolCallAnswered():
                if event.call_id in ended or event.call_id not in open_calls:
                    found.append(f"{event.call_id} was answered twice, or never asked")
                ended.add(event.call_id)
                open_calls.remove(event.call_id)
            case ModelCallStarted():
                if open_calls or waiting:
                    found.append(f"turn {event.turn} began before all results, or while waiting")
            case ModelCallResponded() if waiting:
                found.append(f"turn {event.turn} was answered while waiting")
            case BuildWaiting():
                waiting = True
            case BuildResumed():
                waiting = False
            case _:
                pass
    return found


@given(MOVES)
@settings(max_examples=120, deadline=None)
def test_no_order_of_facts_breaks_a_promise(moves):
    scenario = walk(moves)
    events = [event.data for event in scenario.log]
    assert [*broken(events), *build_invariants.money(events), *build_invariants.order(events)] == []
    ends = [place for place, event in enumerate(events) if event.terminal]
    assert ends in ([], [len(events) - 1])


@given(MOVES)
@settings(max_examples=60, deadline=None)
def test_the_results_of_each_turn_stand_in_the_order_of_its_calls(moves):
    scenario = walk(moves)
    asked: dict[str, tuple[int, int]] = {}
    for event in scenario.log:
        if isinstance(event.data, ToolCallAnswered) and event.data.tool_use_id is not None:
            _, turn, index = event.data.call_id.split("/")
            asked[event.data.tool_use_id] = (int(turn), int(index))
        if isinstance(event.data, QuestionAsked | ToolCallRequested | ApprovalRequested):
            asked[event.data.tool_use_id] = (event.data.turn, event.data.index)
    for entry in scenario.state.conversation.entries:
        if isinstance(entry, ToolResults):
            places = [asked[result.tool_use_id] for result in entry.results]
            assert places == sorted(places)
            assert [index for _, index in places] == list(range(len(places)))
            assert len({turn for turn, _ in places}) == 1


@given(MOVES)
@settings(max_examples=60, deadline=None)
def test_the_pending_rows_are_those_of_the_state(moves):
    scenario = walk(moves)
    rows: set[tuple[PendingKind, str]] = set()
    for event in scenario.log:
        for change in event.data.pending("b1"):
            (rows.add if change.opens else rows.discard)((change.kind, change.key))
    questions = {key for kind, key in rows if kind is PendingKind.QUESTION}
    assert ((PendingKind.WAITING, "b1") in rows) == (scenario.state.mode is RunMode.WAITING)
    ended = scenario.state.mode is RunMode.ENDED
    assert questions == (set() if ended else {one.question_id for one in scenario.state.questions})
    approvals = {key for kind, key in rows if kind is PendingKind.APPROVAL}
    assert approvals == (set() if ended else {one.call.call_id for one in scenario.state.approvals})
    calls = {key for kind, key in rows if kind is PendingKind.CUSTOMER_CALL}
    assert calls == (set() if ended else {one.call_id for one in scenario.state.customer_calls})


@given(MOVES)
@settings(max_examples=60, deadline=None)
def test_a_waiting_build_says_until_when_and_for_what(moves):
    """Otherwise it would be taken over for ever, or never, and a person would see an answered question."""
    scenario = walk(moves)
    state = scenario.state
    if state.mode is not RunMode.WAITING or state.waits_for == "paused":
        return
    outside = (*state.questions, *state.approvals, *state.customer_calls)
    assert state.waits_until == min((one.deadline for one in outside if one.deadline), default=None)
    assert state.waits_on in state.open_outside


def test_a_walk_reaches_answers_limits_and_pauses():
    """Otherwise the properties would hold for no event."""
    kinds: set[type[Event]] = set()
    seen: set[str] = set()
    for seed in range(20):
        moves = random.Random(seed).choices(range(24), k=80)
        events = [event.data for event in walk(moves).log]
        kinds |= {type(event) for event in events}
        seen |= {event.by for event in events if isinstance(event, ToolCallAnswered | ApprovalResolved)}
    assert kinds >= {ToolCallAnswered, EscalationRaised, EscalationResolved, BuildWaiting, BuildResumed}
    assert seen == {"person", "default", "customer", "policy", "message", "cancelled"}
