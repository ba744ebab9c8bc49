"""How a build ends before it is ready: limits, refusals, the deadline, a cancel."""

from datetime import timedelta
from uuid import UUID

import pytest
from tests.unit.orchestrator.build_scenario import (
    NOW,
    REQUEST,
    begun,
    requested,
    text,
    tool_use,
    working,
)

from nightshift.contracts.events.build import (
    AgentSteered,
    BuildCancelled,
    BuildFailed,
    EscalationRaised,
    ModelCallFailed,
    ModelCallStarted,
    Phase,
    Usage,
)
from nightshift.orchestrator.domain.commands import (
    CancelBuild,
)
from nightshift.orchestrator.domain.next_step import Ended, Waiting
from nightshift.orchestrator.domain.policy import Policy

NOW_CAUSE = UUID(int=77)


@pytest.mark.parametrize("reason", ["pause_turn", "a_reason_of_next_year"])
def test_a_paused_answer_is_continued_and_never_checked(reason):
    scenario = working()
    for _ in range(scenario.policy.max_cuts):
        scenario.thinks(text("Let me think."), stop_reason=reason)
        assert scenario.state.phase is not Phase.CHECKS
        assert reason in scenario.last(AgentSteered).message
    scenario.thinks(text("Still."), stop_reason=reason)
    assert scenario.last(BuildFailed).reason == "model_error"
    assert reason in scenario.last(BuildFailed).detail


def test_a_cut_answer_runs_nothing_and_is_continued():
    scenario = begun(policy=Policy(max_cuts=2))
    for _ in range(2):
        events = scenario.thinks(text("…"), tool_use(), stop_reason="max_tokens")
        assert not requested(events)
        assert scenario.last(AgentSteered).reason == "max_tokens"
    scenario.thinks(text("…"), stop_reason="max_tokens")
    assert scenario.last(BuildFailed).reason == "max_tokens"


def test_what_the_model_will_not_go_on_with_ends_the_build():
    scenario = begun()
    scenario.thinks(text("No."), stop_reason="refusal")
    assert scenario.last(BuildFailed).reason == "refusal"
    assert scenario.last(BuildFailed).cost_microusd == scenario.state.funds.spent > 0
    assert scenario.state.phase is Phase.FAILED


def test_the_limit_of_tool_calls_is_told_before_it_escalates():
    scenario = begun(policy=Policy(tool_call_limit=10))
    for number in range(10):
        scenario.thinks(tool_use(given={"command": f"echo {number}"}))
        scenario.results()
    assert [event.data.reason for event in scenario.log if isinstance(event.data, AgentSteered)] == ["turns"]
    scenario.step()
    assert scenario.last(EscalationRaised).kind == "tool_call_limit"
    assert scenario.next() == Waiting()


def test_the_limit_of_turns_asks_a_person():
    scenario = begun(policy=Policy(turn_limit=2))
    for number in range(2):
        scenario.thinks(tool_use(given={"command": f"echo {number}"}))
        scenario.results()
    scenario.step()
    assert scenario.last(EscalationRaised).kind == "turn_limit"
    assert scenario.next() == Waiting()


def test_the_deadline_ends_a_build_whatever_it_does():
    request = REQUEST.model_copy(update={"deadline": NOW + timedelta(minutes=5)})
    scenario = begun(request=request)
    scenario.step()
    scenario.passes(300)
    scenario.step()
    assert scenario.last(BuildFailed).reason == "deadline"
    assert scenario.last(ModelCallFailed).cost_microusd == scenario.last(ModelCallStarted).reserve_microusd


def test_a_cancel_costs_the_usage_and_waits_for_no_tool():
    scenario = begun()
    scenario.step()
    seen = Usage(input_tokens=100, output_tokens=1)
    scenario.do(CancelBuild("enough", NOW_CAUSE, seen))
    assert scenario.last(ModelCallFailed).kind == "cancelled"
    assert scenario.last(BuildCancelled).cost_microusd == scenario.state.funds.spent == 315
    other = begun()
    other.thinks(tool_use())
    other.do(CancelBuild("enough", NOW_CAUSE))
    assert other.next() == Ended()
    assert other.do(CancelBuild("again", NOW_CAUSE)) == ()
