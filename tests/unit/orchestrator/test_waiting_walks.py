"""Random orders of answers, results, messages, pauses and cancels: the promises of a build that talks to people."""

import random
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import build_invariants
from tests.unit.orchestrator.build_scenario import BuildScenario, answer, completed, text, tool_use

from nightshift.contracts.events.build import (
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
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import Event, PendingKind
from nightshift.orchestrator.domain.commands import (
    AnswerQuestion,
    CancelBuild,
    Complete,
    MessageAgent,
    PauseBuild,
    ResumeBuild,
    SetLimits,
    Step,
)
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import RunMode, ToolResults

MOVES = st.lists(st.integers(0, 19), min_size=10, max_size=80)


def walk(moves: list[int]) -> BuildScenario:
    scenario = BuildScenario(policy=Policy(turn_limit=3, tool_call_limit=8))
    for number, move in enumerate(moves):
        _move(scenario, move, UUID(int=10_000 + number), number)
    return scenario


def _move(scenario: BuildScenario, move: int, cause: UUID, number: int) -> None:
    state, step = scenario.state, scenario.next()
    open_calls = [call.call_id for call in state.tool_calls if call.result is None]
    asked = {one.question_id for one in state.questions}
    match move:
        case 0:
            scenario.do(PauseBuild(None, cause))
        case 1 | 2:
            scenario.do(ResumeBuild(cause))
        case 3:
            scenario.do(MessageAgent("Faster.", cause))
        case 4:
            scenario.do(SetLimits(3 + number // 8, 8 + number // 4, cause))
        case 5 if number > 60:
            scenario.do(CancelBuild("enough", cause))
        case 6 | 7 | 8 if state.questions:
            question = state.questions[number % len(state.questions)]
            option = question.options[number % len(question.options)] if question.options else None
            scenario.do(AnswerQuestion(question.question_id, option, "So.", cause))
        case _ if state.mode is RunMode.ENDED:
            pass  # the log refuses the facts of other services
        case _ if set(open_calls) - asked:
            left = sorted(set(open_calls) - asked)
            scenario.others(completed(left[number % len(left)]))
        case _ if isinstance(step, Step):
            scenario.do(Complete(1) if isinstance(step, Complete) else step)
        case _ if state.call is not None:
            uses = [
                tool_use("ask_user", {"question": f"{number}?"}, id=f"q{number}"),
                tool_use(given={"command": f"echo {number}"}, id=f"t{number}"),
                tool_use("ask_user", {"question": "2?", "deadline_s": 50, "default": "x"}, id=f"r{number}"),
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
    waiting = False
    for event in events:
        match event:
            case ToolCallRequested():
                open_calls.append(event.call_id)
            case QuestionAsked():
                open_calls.append(event.question_id)
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
        if isinstance(event.data, QuestionAsked | ToolCallRequested):
            asked[event.data.tool_use_id] = (event.data.turn, event.data.index)
    for entry in scenario.state.conversation.entries:
        if isinstance(entry, ToolResults):
            places = [asked[result.tool_use_id] for result in entry.results]
            assert places == sorted(places)
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


def test_a_walk_reaches_answers_limits_and_pauses():
    """Otherwise the properties would hold for no event."""
    kinds: set[type[Event]] = set()
    for seed in range(20):
        moves = random.Random(seed).choices(range(20), k=80)
        kinds |= {type(event.data) for event in walk(moves).log}
    assert kinds >= {ToolCallAnswered, EscalationRaised, EscalationResolved, BuildWaiting, BuildResumed}
