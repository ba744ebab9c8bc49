"""Model calls of other roles than the builder: their price, their end, and the builder's untouched conversation."""

import pytest
from tests.support import build_invariants
from tests.unit.orchestrator.build_scenario import REQUEST, BuildScenario, answer, text, tool_use

from nightshift.budget.domain.spending import spent_under
from nightshift.contracts import prices
from nightshift.contracts.events.build import ModelCallFailed, ModelCallResponded, ModelCallStarted, Usage
from nightshift.contracts.models import Role
from nightshift.orchestrator.domain import prompt
from nightshift.orchestrator.domain.commands import AbandonCall, CallFailed, StartCall
from nightshift.orchestrator.domain.policy import Policy

USAGE = Usage(input_tokens=1_000, output_tokens=100)
#: A build whose builder is dearer than its condenser.
DEAR = REQUEST.model_copy(update={"tier": "priority"})


def condensing(role: Role = "condenser") -> BuildScenario:
    """A build with an open call of the condenser, or of another role, after its first turn."""
    scenario = BuildScenario(request=DEAR, policy=Policy(model_by_tier=True))
    scenario.granted(20_000_000)
    scenario.thinks(tool_use())
    scenario.results()
    (grant,) = scenario.state.funds.grants
    scenario.do(StartCall(grant.lease_id, 50_000, role))
    return scenario


def test_a_call_of_another_role_has_its_own_model_and_price():
    scenario = condensing()
    spent = scenario.state.funds.spent
    scenario.do(answer(text("A summary."), usage=USAGE))
    responded = scenario.last(ModelCallResponded)
    assert (responded.role, responded.turn, responded.attempt) == ("condenser", 1, 1)
    assert scenario.last(ModelCallStarted).model == "claude-haiku-5-5"
    assert responded.cost_microusd == prices.cost("claude-haiku-5-5", USAGE)
    assert scenario.state.funds.spent == spent + responded.cost_microusd


def test_the_builders_conversation_never_holds_another_roles_answer():
    scenario = condensing("judge")
    before = prompt.request_bytes(scenario.state, scenario.policy)
    conversation = scenario.state.conversation
    scenario.do(answer(text("A summary."), stop_reason="max_tokens", usage=USAGE))
    assert prompt.request_bytes(scenario.state, scenario.policy) == before
    assert scenario.state.conversation == conversation
    assert scenario.state.counters.cuts == 0


@pytest.mark.parametrize(
    ("end", "kind", "cost"),
    [
        (AbandonCall(), "abandoned", 50_000),
        (AbandonCall(USAGE), "abandoned", prices.cost("claude-haiku-5-5", USAGE)),
        (CallFailed("overloaded", "no", status=529), "overloaded", 0),
        (CallFailed("stream_cut", "no", maybe_billed=True), "stream_cut", 50_000),
    ],
)
def test_a_failed_call_of_another_role_is_settled_at_its_price(end, kind, cost):
    scenario = condensing()
    scenario.do(end)
    failed = scenario.last(ModelCallFailed)
    assert (failed.role, failed.kind, failed.cost_microusd) == ("condenser", kind, cost)
    assert failed.retry_at is not None


def test_the_calls_of_a_turn_are_told_apart_by_role_and_attempt():
    scenario = condensing()
    scenario.do(AbandonCall())
    (grant,) = scenario.state.funds.grants
    scenario.do(StartCall(grant.lease_id, 50_000, "condenser"))
    scenario.do(answer(text("A summary."), usage=USAGE))
    scenario.thinks(text("Done."))
    events = [event.data for event in scenario.log]
    started = [(e.role, e.turn, e.attempt) for e in events if isinstance(e, ModelCallStarted)]
    assert started == [(None, 1, 1), ("condenser", 1, 1), ("condenser", 1, 2), (None, 2, 1)]
    assert build_invariants.money(events) == []
    assert spent_under(grant.lease_id, events).total == scenario.state.funds.spent
