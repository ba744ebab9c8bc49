"""A build that waits for a person: questions, answers, messages, escalations, pauses and limits."""

from datetime import timedelta
from uuid import UUID

import pytest
from tests.unit.orchestrator.build_scenario import (
    NOW,
    REQUEST,
    BuildScenario,
    answer,
    begun,
    completed,
    tool_use,
    with_,
    working,
)

from nightshift.contracts.events.build import (
    AgentSteered,
    BudgetRequested,
    BuildCancelled,
    BuildFailed,
    BuildLimitsChanged,
    BuildResumed,
    BuildWaiting,
    EscalationRaised,
    EscalationResolved,
    ModelCallFailed,
    ModelCallStarted,
    QuestionAsked,
    ToolCallAnswered,
    ToolCallRequested,
    Usage,
)
from nightshift.contracts.model import PendingKind
from nightshift.orchestrator.domain.commands import (
    AnswerQuestion,
    AskBudget,
    CancelBuild,
    MessageAgent,
    PauseBuild,
    ResumeBuild,
    SetLimits,
    StartCall,
    StopCall,
)
from nightshift.orchestrator.domain.next_step import AwaitFact, AwaitModel, Ended, Waiting
from nightshift.orchestrator.domain.state import RunMode, ToolResults

A, B, C = UUID(int=91), UUID(int=92), UUID(int=93)
ASK = {"question": "Which colour?", "options": ["blue", "green"]}


def ask(id: str = "toolu_q", **more) -> dict:
    return tool_use("ask_user", {**ASK, **more}, id=id)


def asked(*, others: tuple[dict, ...] = (), **more) -> BuildScenario:
    """A build that has asked, and waits when no other call is open."""
    scenario = begun()
    scenario.thinks(*others, ask(**more))
    if not others:
        scenario.step()
    return scenario


def question_id(scenario: BuildScenario) -> str:
    return scenario.state.questions[0].question_id


def reply(scenario: BuildScenario, option: str | None = None, text: str | None = None, cause: UUID = A):
    return scenario.do(AnswerQuestion(question_id(scenario), option, text, cause))


def open_rows(scenario: BuildScenario) -> set[tuple[PendingKind, str]]:
    """The rows about waiting that the log's events leave open."""
    rows: set[tuple[PendingKind, str]] = set()
    for event in scenario.log:
        for change in event.data.pending("b1"):
            (rows.add if change.opens else rows.discard)((change.kind, change.key))
    return {
        row for row in rows if row[0] in {PendingKind.WAITING, PendingKind.QUESTION, PendingKind.TOOL_CALL}
    }


def results(scenario: BuildScenario) -> list[tuple[str, str]]:
    entry = scenario.state.conversation.entries[-1]
    assert isinstance(entry, ToolResults)
    return [(result.tool_use_id, result.output) for result in entry.results]


def test_a_question_is_no_tool_call_and_the_build_waits_for_it():
    scenario = asked()
    assert not any(isinstance(event.data, ToolCallRequested) for event in scenario.log)
    waiting = scenario.last(BuildWaiting)
    assert (waiting.reason, waiting.question_id, waiting.until) == ("question", "b1/1/0", None)
    assert scenario.next() == Waiting()
    assert open_rows(scenario) == {(PendingKind.WAITING, "b1"), (PendingKind.QUESTION, "b1/1/0")}
    assert scenario.state.funds.grants == ()


def test_an_answer_is_the_result_and_asks_for_the_next_calls_money():
    scenario = asked()
    events = reply(scenario, "blue", "Like the logo.")
    assert [type(event) for event in events] == [ToolCallAnswered, BuildResumed, BudgetRequested]
    assert results(scenario) == [("toolu_q", "blue\nLike the logo.")]
    assert open_rows(scenario) == set()
    scenario.granted()
    scenario.step()
    assert scenario.last(ModelCallStarted).turn == 2


def test_only_the_first_answer_counts():
    scenario = asked()
    first = question_id(scenario)
    reply(scenario, "blue")
    assert scenario.do(AnswerQuestion(first, "green", None, B)) == ()


def test_the_results_keep_the_order_of_the_calls():
    scenario = begun()
    scenario.thinks(ask("q1"), tool_use(id="t1"), ask("q2", question="Which size?"))
    assert scenario.next() == AwaitFact()
    scenario.do(AnswerQuestion("b1/1/2", "green", None, A))
    scenario.others(completed("b1/1/1"))
    scenario.step()
    assert scenario.next() == Waiting()
    scenario.do(AnswerQuestion("b1/1/0", "blue", None, B))
    assert results(scenario) == [("q1", "blue"), ("t1", "ok"), ("q2", "green")]


def test_an_unanswered_question_gets_its_default_at_its_deadline():
    scenario = asked(deadline_s=600, default="green")
    assert scenario.last(BuildWaiting).until == NOW + timedelta(seconds=600)
    scenario.passes(599)
    assert scenario.next() == Waiting()
    scenario.passes(1)
    events = scenario.step()
    assert [type(event) for event in events] == [ToolCallAnswered, BuildResumed, BudgetRequested]
    assert (scenario.last(ToolCallAnswered).by, results(scenario)) == ("default", [("toolu_q", "green")])


@pytest.mark.parametrize("wrong", [{"options": "blue"}, {"deadline_s": 5}, {"question": ""}])
def test_a_wrong_question_is_left_to_the_gateway_to_refuse(wrong):
    scenario = begun()
    [*_, last] = scenario.thinks(ask(**wrong))
    assert isinstance(last, ToolCallRequested)
    assert scenario.state.questions == ()


def test_a_message_wakes_a_build_that_waits_for_an_answer():
    scenario = asked()
    events = scenario.do(MessageAgent("Never mind, use what you like.", A))
    assert [type(event) for event in events] == [
        AgentSteered,
        ToolCallAnswered,
        BuildResumed,
        BudgetRequested,
    ]
    assert scenario.state.conversation.waiting == ("Never mind, use what you like.",)


def test_a_message_answers_a_question_while_another_call_runs():
    """Otherwise the build would wait for the answer, with the message unread."""
    scenario = asked(others=(tool_use(),))
    scenario.do(MessageAgent("Faster.", A))
    assert scenario.state.questions == ()
    assert scenario.next() == AwaitFact()
    scenario.results()
    assert isinstance(scenario.next(), AskBudget | StartCall)


def test_a_cancel_answers_the_questions_and_leaves_no_row():
    scenario = asked()
    scenario.do(CancelBuild("enough", A))
    assert scenario.last(ToolCallAnswered).by == "cancelled"
    assert isinstance(scenario.log[-1].data, BuildCancelled)
    assert open_rows(scenario) == set()
    assert scenario.next() == Ended()


def test_a_waiting_build_fails_at_its_deadline():
    scenario = begun(request=REQUEST.model_copy(update={"deadline": NOW + timedelta(minutes=5)}))
    scenario.thinks(ask())
    scenario.step()
    assert scenario.last(BuildWaiting).until == NOW + timedelta(minutes=5)
    scenario.passes(300)
    scenario.step()
    assert scenario.last(BuildFailed).reason == "deadline"
    assert open_rows(scenario) == set()


def test_a_pause_stops_the_call_at_what_it_cost_and_resumes_it():
    scenario = begun()
    scenario.step()
    scenario.do(PauseBuild("a look", A))
    assert scenario.last(BuildWaiting).detail == "a look"
    assert scenario.next() == StopCall()
    scenario.do(StopCall(Usage(input_tokens=100, output_tokens=1)))
    assert scenario.last(ModelCallFailed).kind == "cancelled"
    assert scenario.state.funds.spent == 315
    assert isinstance(scenario.log[-1].data, BuildWaiting)  # the budget service settles once more
    assert scenario.next() == Waiting()
    assert scenario.do(PauseBuild(None, B)) == ()
    events = scenario.do(ResumeBuild(C))
    assert [type(event) for event in events] == [BuildResumed, BudgetRequested]
    scenario.granted()
    scenario.step()
    started = scenario.last(ModelCallStarted)
    assert (started.turn, started.attempt) == (1, 2)
    assert scenario.next() == AwaitModel()


def test_pauses_are_no_failures_of_the_provider():
    scenario = begun(policy=with_(attempts=2))
    for number in range(5):
        scenario.step()
        scenario.do(PauseBuild(None, UUID(int=200 + number)))
        scenario.do(StopCall())
        scenario.do(ResumeBuild(UUID(int=300 + number)))
        scenario.granted()
    assert scenario.state.counters.paid_failures == 0
    assert scenario.state.mode is RunMode.RUNNING


def test_a_pause_keeps_a_build_that_gets_its_answer():
    scenario = asked()
    scenario.do(PauseBuild(None, A))
    assert [type(event) for event in reply(scenario, "blue", cause=B)] == [ToolCallAnswered]
    assert scenario.next() == Waiting()
    assert [type(event) for event in scenario.do(ResumeBuild(C))] == [BuildResumed, BudgetRequested]


def test_a_resumed_build_still_waits_for_its_answer():
    scenario = asked()
    scenario.do(PauseBuild(None, A))
    scenario.do(ResumeBuild(B))
    scenario.step()
    assert scenario.last(BuildWaiting).reason == "question"


def test_a_paused_sleeper_is_not_woken_by_money():
    scenario = working()
    scenario.passes(7_200)
    scenario.step()
    scenario.denied()
    scenario.step()
    assert scenario.state.mode is RunMode.SLEEPING
    scenario.do(PauseBuild(None, A))
    scenario.woken()
    assert scenario.next() == Waiting()


def at_the_limit(**limits) -> BuildScenario:
    scenario = begun(policy=with_(**(limits or {"turn_limit": 2})))
    for number in range(2):
        scenario.thinks(tool_use(given={"command": f"echo {number}"}))
        scenario.results()
    scenario.step()
    return scenario


def test_a_limit_asks_in_plain_words_with_options():
    scenario = at_the_limit()
    raised = scenario.last(EscalationRaised)
    assert (raised.kind, raised.options) == ("turn_limit", ("continue", "finish", "end"))
    assert "limit of 2 turns" in raised.detail
    assert raised.tried
    assert scenario.last(BuildWaiting).reason == "limit"
    assert open_rows(scenario) == {
        (PendingKind.WAITING, "b1"),
        (PendingKind.QUESTION, str(raised.escalation_id)),
    }


@pytest.mark.parametrize("limits", [{"turn_limit": 2}, {"tool_call_limit": 2}])
@pytest.mark.parametrize("option", ["continue", "finish"])
def test_an_answer_gives_room_beyond_the_limit_and_reaches_the_agent(option, limits):
    scenario = at_the_limit(**limits)
    reply(scenario, option, "Mind the tests.")
    assert "Mind the tests." in scenario.last(AgentSteered).message
    assert scenario.last(BuildLimitsChanged).turn_limit >= 12
    scenario.granted()
    scenario.step()
    assert scenario.last(ModelCallStarted).turn == 3


def test_the_answer_end_fails_the_build_for_its_limit():
    scenario = at_the_limit()
    reply(scenario, "end")
    assert scenario.last(BuildFailed).reason == "turn_limit"
    assert open_rows(scenario) == set()


def test_raised_limits_let_a_build_that_waits_at_them_go_on():
    scenario = at_the_limit()
    events = scenario.do(SetLimits(2, None, A))
    assert [type(event) for event in events] == [BuildLimitsChanged]
    events = scenario.do(SetLimits(5, None, B))
    assert [type(event) for event in events] == [
        BuildLimitsChanged,
        EscalationResolved,
        BuildResumed,
        BudgetRequested,
    ]
    assert scenario.state.request.turn_limit == 5


def test_a_message_does_not_lift_a_limit():
    scenario = at_the_limit()
    scenario.do(MessageAgent("Go on!", A))
    assert scenario.next() == Waiting()


def test_an_agent_that_repeats_itself_goes_on_after_an_answer():
    scenario = begun()
    for _ in range(6):
        scenario.thinks(tool_use())
        scenario.results()
    scenario.step()
    assert scenario.last(EscalationRaised).kind == "repetition"
    reply(scenario, "continue", "Read the log first.")
    assert scenario.state.conversation.waiting[-1].endswith("Read the log first.")
    scenario.granted()
    scenario.step()
    assert scenario.last(ModelCallStarted).turn == 7


def test_every_question_is_recorded_before_its_build_waits():
    types = [type(event.data) for event in asked().log]
    assert types.index(QuestionAsked) < types.index(BuildWaiting)


def test_answers_after_the_end_change_nothing():
    scenario = asked()
    first = question_id(scenario)
    scenario.do(CancelBuild("enough", A))
    for command in (
        AnswerQuestion(first, "blue", None, B),
        PauseBuild(None, B),
        ResumeBuild(B),
        SetLimits(9, 9, B),
    ):
        assert scenario.do(command) == ()
    assert scenario.do(answer(tool_use())) == ()
