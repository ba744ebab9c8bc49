"""A build never starts a call that could pass its own cost limit."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.orchestrator.build_scenario import REQUEST, BuildScenario, begun, tool_use

from nightshift.contracts.events.build import EscalationRaised, ModelCallStarted, Usage
from nightshift.orchestrator.domain.commands import AskBudget, Escalate, Sleep, StartCall
from nightshift.orchestrator.domain.next_step import CountPrompt, next_step, worst_case


def limited(room: int) -> BuildScenario:
    """A build after its first turn, whose limit leaves this much more than its next call can cost."""
    scenario = begun(request=REQUEST.model_copy(update={"cost_limit_microusd": 10_000_000}))
    scenario.thinks(tool_use(), usage=Usage(input_tokens=100, output_tokens=10))
    scenario.results()
    limit = scenario.state.funds.spent + worst_case(scenario.state, scenario.policy) + room
    accepted = scenario.state.request.model_copy(update={"cost_limit_microusd": limit})
    scenario.state = replace(scenario.state, accepted=accepted)
    return scenario


@pytest.mark.parametrize(("room", "starts"), [(0, True), (-1, False)])
def test_a_call_that_could_pass_the_limit_is_not_made(room: int, starts: bool):
    scenario = limited(room)
    calls = scenario.types().count(ModelCallStarted.type)
    scenario.step()
    assert (scenario.types().count(ModelCallStarted.type) == calls + 1) == starts
    if not starts:
        assert scenario.last(EscalationRaised).kind == "cost_limit"


def test_a_guess_over_a_limit_is_counted_and_asks_no_person():
    scenario = begun(request=REQUEST.model_copy(update={"cost_limit_microusd": 10_000_000}))
    scenario.thinks(tool_use(), usage=Usage(input_tokens=100, output_tokens=10))
    scenario.results(output="x" * 90_000)
    guess = worst_case(scenario.state, scenario.policy)
    limit = scenario.state.funds.spent + guess - 1
    accepted = scenario.state.request.model_copy(update={"cost_limit_microusd": limit})
    state = replace(scenario.state, accepted=accepted)
    assert isinstance(next_step(state, scenario.now, scenario.policy), CountPrompt)
    assert isinstance(next_step(state, scenario.now, scenario.policy, 25_000), AskBudget | StartCall)
    assert isinstance(next_step(state, scenario.now, scenario.policy, 900_000), Escalate)

    denied = replace(
        state.funds, grants=(), refused_until=scenario.now + timedelta(hours=8), day_most=guess - 1
    )
    state = replace(scenario.state, funds=denied)
    assert isinstance(next_step(state, scenario.now, scenario.policy), CountPrompt)
    assert isinstance(next_step(state, scenario.now, scenario.policy, 25_000), Sleep)
    assert isinstance(next_step(state, scenario.now, scenario.policy, 900_000), Escalate)
