"""Grants and denials, sleeps and wakes, and what a call takes of its grant."""

from datetime import timedelta
from uuid import UUID

import pytest
from tests.unit.orchestrator.build_scenario import (
    REQUEST,
    BuildScenario,
    answer,
    begun,
    text,
    tool_use,
)

from nightshift.contracts.events.build import (
    AgentSteered,
    BudgetRequested,
    BuildFailed,
    BuildLimitsChanged,
    BuildResumed,
    BuildWaiting,
    EscalationRaised,
    ModelCallFailed,
    ModelCallStarted,
    SleepRequested,
    Usage,
)
from nightshift.orchestrator.domain.commands import (
    AbandonCall,
    AnswerQuestion,
    Complete,
    Escalate,
    PauseBuild,
    SetLimits,
    StartCall,
)
from nightshift.orchestrator.domain.next_step import Asleep, Waiting
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import RunMode


def test_denied_money_is_a_checkpoint_and_then_a_sleep():
    scenario = begun(policy=Policy(grant_turns=1))
    scenario.thinks(tool_use(), usage=Usage(input_tokens=90_000))
    scenario.results()
    assert [event.type for event in scenario.step()] == ["budget.requested"]
    scenario.denied(refresh_s=600)
    assert [event.type for event in scenario.step()] == ["checkpoint.saved", "sleep.requested"]
    assert scenario.last(SleepRequested).wake_at == scenario.now + timedelta(seconds=600)
    assert scenario.next() == Asleep()


def test_a_build_sleeps_and_wakes_three_times():
    scenario = begun(policy=Policy(grant_turns=1))
    for night in range(3):
        scenario.thinks(tool_use(given={"command": f"echo {night}"}), usage=Usage(input_tokens=90_000))
        scenario.results()
        scenario.step()
        scenario.denied()
        scenario.step()
        assert scenario.state.mode is RunMode.SLEEPING
        assert not scenario.state.funds.grants
        scenario.passes(3_600)
        scenario.woken()
        assert [event.type for event in scenario.step()] == ["build.woken", "budget.requested"]
        scenario.granted()
    assert isinstance(scenario.next(), StartCall)
    assert scenario.types().count("sleep.requested") == 3


@pytest.mark.parametrize("enough", [True, False])
def test_a_wake_asks_for_money_only_when_none_is_reserved(enough):
    scenario = begun(policy=Policy(grant_turns=1))
    scenario.thinks(tool_use(), usage=Usage(input_tokens=90_000))
    scenario.results()
    scenario.step()
    scenario.denied()
    scenario.step()
    scenario.granted(None if enough else 1)  # reserved for the sleeper, before it is called
    scenario.woken()
    asked = [] if enough else ["budget.requested"]
    assert [event.type for event in scenario.step()] == ["build.woken", *asked]
    if enough:
        assert isinstance(scenario.next(), StartCall)


def test_a_wake_that_finds_the_build_awake_changes_nothing():
    scenario = begun()
    scenario.woken()
    assert isinstance(scenario.next(), StartCall)


def test_a_finished_build_without_money_is_ready_not_asleep():
    scenario = begun(policy=Policy(grant_turns=1))
    scenario.thinks(tool_use(), usage=Usage(input_tokens=90_000))
    scenario.results()
    scenario.step()
    scenario.granted(left=0, limit=20_000_000)
    scenario.step()
    assert "Nine tenths" in scenario.last(AgentSteered).message
    scenario.do(answer(text(), usage=Usage(input_tokens=90_000)))
    scenario.results()
    assert scenario.next() == Complete()
    assert "sleep.requested" not in scenario.types()


def test_the_agent_is_warned_about_money_once_a_day():
    scenario = begun()
    scenario.thinks(tool_use(given={"command": "a"}), usage=Usage(input_tokens=300_000))
    scenario.results()
    scenario.step()
    scenario.granted(left=100_000, limit=50_000_000)
    for number in range(3):
        scenario.thinks(tool_use(given={"command": f"b{number}"}))
        scenario.results()
    assert [event.data.reason for event in scenario.log if isinstance(event.data, AgentSteered)] == ["budget"]


def test_no_call_starts_that_its_grant_does_not_cover():
    scenario = BuildScenario()
    reserve = scenario.last(type(scenario.log[-1].data)).minimum_microusd
    scenario.granted(amount=reserve - 1)
    assert [event.type for event in scenario.step()] == ["budget.requested"]
    scenario.granted(amount=reserve)
    started = scenario.step()[-1]
    assert started.reserve_microusd == reserve


def test_a_prompt_that_the_provider_did_not_count_keeps_its_bound():
    scenario = begun()
    scenario.thinks(tool_use(), usage=Usage(input_tokens=1_000, output_tokens=100))
    scenario.results()
    counted = scenario.state.conversation.tokens
    scenario.thinks(tool_use(given={"command": "ls"}), usage=Usage(output_tokens=5))
    assert scenario.state.conversation.tokens > counted


def test_what_a_call_did_not_cost_is_free_again():
    scenario = begun()
    before = scenario.state.funds.grants[0].left_microusd
    scenario.step()
    assert (
        scenario.state.funds.grants[0].left_microusd
        == before - scenario.last(ModelCallStarted).reserve_microusd
    )
    scenario.do(answer(tool_use()))
    assert scenario.state.funds.grants[0].left_microusd == before - scenario.state.funds.spent


def test_an_expired_grant_covers_nothing():
    scenario = begun()
    scenario.passes(3_600)
    assert [event.type for event in scenario.step()] == ["budget.requested"]


def test_a_crash_in_a_call_counts_its_worst_case_and_tries_again():
    scenario = begun()
    scenario.step()
    reserve = scenario.last(ModelCallStarted).reserve_microusd
    scenario.do(AbandonCall())
    failed = scenario.last(ModelCallFailed)
    assert (failed.kind, failed.cost_microusd) == ("abandoned", reserve)
    assert scenario.state.funds.spent == reserve
    if not isinstance(scenario.next(), StartCall):
        scenario.step()
        scenario.granted()
    scenario.step()
    started = scenario.last(ModelCallStarted)
    assert (started.turn, started.attempt) == (1, 2)


def test_a_late_answer_to_an_abandoned_call_is_not_used():
    scenario = begun()
    scenario.step()
    scenario.do(AbandonCall())
    assert scenario.do(answer(tool_use())) == ()


def test_a_grant_covers_a_few_turns_and_not_the_day():
    scenario = begun(policy=Policy(grant_turns=4))
    first = scenario.last(BudgetRequested)
    assert first.amount_microusd == first.minimum_microusd
    for number in range(3):
        scenario.thinks(tool_use(given={"command": f"echo {number}"}))
        scenario.results()
    scenario.passes(3_600)
    scenario.step()
    request, average = scenario.last(BudgetRequested), scenario.state.funds.spent // 3
    assert request.amount_microusd == request.minimum_microusd + 3 * average
    assert request.tier == "standard"


def test_a_call_above_every_day_is_escalated_at_once():
    scenario = BuildScenario()
    needs = scenario.last(BudgetRequested).minimum_microusd
    scenario.denied(day_limit=needs - 1)
    events = scenario.step()
    assert [event.type for event in events] == ["escalation.raised", "build.waiting"]
    raised = scenario.last(EscalationRaised)
    assert raised.kind == "day_limit"
    assert "nightshift account budget a1" in raised.detail
    assert "sleep.requested" not in scenario.types()
    # A person chooses to go on: the build asks again at once.
    answered = scenario.do(AnswerQuestion(str(raised.escalation_id), "continue", None, cause=UUID(int=7)))
    assert answered[-1].type == "budget.requested"
    scenario.denied(day_limit=10 * needs)
    assert [event.type for event in scenario.step()][-1] == "sleep.requested"


def test_a_raised_budget_ends_the_wait_for_a_larger_day():
    scenario = BuildScenario()
    needs = scenario.last(BudgetRequested).minimum_microusd
    scenario.denied(day_limit=needs - 1)
    scenario.step()
    scenario.woken()
    went_on = [event.type for event in scenario.step()]
    assert went_on == ["escalation.resolved", "build.resumed", "budget.requested"]
    assert scenario.last(BuildResumed).reason == "limits"
    scenario.granted(amount=needs)
    assert scenario.step()[-1].type == "model_call.started"
    assert "agent.steered" not in scenario.types()  # nobody has said anything


def test_a_wake_does_not_end_a_pause_of_that_wait():
    scenario = BuildScenario()
    scenario.denied(day_limit=scenario.last(BudgetRequested).minimum_microusd - 1)
    scenario.step()
    scenario.do(PauseBuild(None, cause=UUID(int=8)))
    scenario.woken()
    assert isinstance(scenario.next(), Waiting)


def limited(limit: int) -> BuildScenario:
    """A build with a limit of its cost, before its first turn."""
    return begun(request=REQUEST.model_copy(update={"cost_limit_microusd": limit}))


def test_a_build_stops_before_its_next_call_could_pass_its_limit():
    scenario = limited(400_000)
    escalated = None
    for number in range(30):
        if isinstance(escalated := scenario.next(), Escalate):
            break
        scenario.thinks(tool_use(given={"command": f"a{number}"}), usage=Usage(input_tokens=9_000))
        scenario.results()
    assert isinstance(escalated, Escalate)
    assert escalated.kind == "cost_limit"
    assert scenario.state.funds.spent <= 400_000
    scenario.step()
    assert scenario.last(BuildWaiting).reason == "limit"
    raised = scenario.last(EscalationRaised)
    assert raised.options == ("continue", "finish", "end")
    scenario.do(AnswerQuestion(str(raised.escalation_id), "finish", None, cause=UUID(int=7)))
    assert scenario.last(BuildLimitsChanged).cost_limit_microusd > 400_000
    scenario.granted()
    assert isinstance(scenario.next(), StartCall)


def test_a_raised_limit_lets_a_build_at_its_limit_go_on():
    scenario = limited(1)
    scenario.step()
    assert scenario.last(EscalationRaised).kind == "cost_limit"
    scenario.do(SetLimits(None, None, cause=UUID(int=7), cost_limit_microusd=5_000_000))
    assert scenario.state.mode is RunMode.RUNNING
    assert scenario.state.request.cost_limit_microusd == 5_000_000
    scenario.do(SetLimits(500, None, cause=UUID(int=8)))
    assert scenario.state.request.cost_limit_microusd == 5_000_000


def test_a_build_that_a_person_ends_at_its_limit_says_so():
    scenario = limited(1)
    scenario.step()
    scenario.do(
        AnswerQuestion(str(scenario.last(EscalationRaised).escalation_id), "end", None, cause=UUID(int=7))
    )
    assert scenario.last(BuildFailed).reason == "cost_limit"
