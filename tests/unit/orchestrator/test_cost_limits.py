"""A build never starts a call that could pass its own cost limit."""

from dataclasses import replace

import pytest
from tests.unit.orchestrator.build_scenario import REQUEST, BuildScenario, begun, tool_use

from nightshift.contracts.events.build import EscalationRaised, ModelCallStarted, Usage
from nightshift.orchestrator.domain.next_step import worst_case


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
