"""Random walks through the life of a build: every decision can be folded, and each prefix folds to one state."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import build_invariants
from tests.unit.orchestrator.build_scenario import REQUEST, BuildScenario, answer, text, tool_use

from nightshift.contracts.events.build import Usage
from nightshift.orchestrator.domain import prompt
from nightshift.orchestrator.domain.commands import AbandonCall, CallFailed, Complete, Step
from nightshift.orchestrator.domain.evolve import evolve
from nightshift.orchestrator.domain.next_step import Ended
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import INITIAL, RunMode

MODES = (None, "tests", "preview", "checks", "none")
MOVES = st.lists(st.integers(0, 9), min_size=5, max_size=60)


def walk(moves: list[int]) -> BuildScenario:
    request = REQUEST.model_copy(update={"proof": MODES[sum(moves) % len(MODES)]})
    scenario = BuildScenario(policy=Policy(grant_turns=1, attempts=2), request=request)
    for number, move in enumerate(moves):
        step = scenario.next()
        if isinstance(step, Ended):
            break
        if isinstance(step, Step):
            scenario.do(Complete(1) if isinstance(step, Complete) else step)
        elif scenario.state.mode is RunMode.SLEEPING:
            scenario.passes(4_000)
            scenario.woken()
        elif scenario.state.funds.asked is not None and scenario.state.call is None:
            scenario.denied() if move == 0 else scenario.granted()
        elif scenario.state.call is not None:
            _end_call(scenario, move, number)
        elif scenario.state.tool_calls:
            scenario.results(is_error=move % 3 == 0, output="no tests found\n" if move % 4 == 2 else None)
        else:
            scenario.passes(100)
    return scenario


def _end_call(scenario: BuildScenario, move: int, number: int) -> None:
    match move:
        case 0:
            scenario.do(AbandonCall())
        case 1:
            scenario.do(CallFailed("overloaded", "no", status=529))
        case 2:
            scenario.do(CallFailed("stream_cut", "no", maybe_billed=True))
        case 3:
            scenario.do(answer(text(), usage=Usage(input_tokens=50, cache_read_input_tokens=900)))
        case 4:
            scenario.do(answer(text(), tool_use(), stop_reason="max_tokens"))
        case _:
            scenario.do(answer(tool_use(given={"command": f"echo {number // 3}"}, id=f"t{number}")))


@given(MOVES)
@settings(max_examples=60, deadline=None)
def test_each_prefix_folds_to_one_state_with_one_request(moves):
    scenario = walk(moves)
    state = INITIAL
    for event in scenario.log:
        state = evolve(state, event)
    assert state == scenario.state
    assert prompt.request_bytes(state, scenario.policy) == prompt.request_bytes(
        scenario.state, scenario.policy
    )
    costs = [
        getattr(e.data, "cost_microusd", 0) for e in scenario.log if e.data.type.startswith("model_call.")
    ]
    assert state.funds.spent == sum(costs)


@given(MOVES)
@settings(max_examples=40, deadline=None)
def test_rendered_messages_give_the_same_bytes(moves):
    scenario, state, rendered = walk(moves), INITIAL, prompt.RenderedMessages()
    for event in scenario.log:
        state = evolve(state, event)
        kept = prompt.request_bytes(state, scenario.policy, rendered)
        assert kept == prompt.request_bytes(state, scenario.policy)
    # Of another past, such as the state folded anew, nothing is taken over.
    refolded = INITIAL
    for event in scenario.log:
        refolded = evolve(refolded, event._replace(data=event.data.model_copy()))
    assert prompt.request_bytes(refolded, scenario.policy, rendered) == kept
    early = evolve(INITIAL, scenario.log[0])
    assert prompt.request_bytes(early, scenario.policy, rendered) == prompt.request_bytes(
        early, scenario.policy
    )


@given(MOVES)
@settings(max_examples=30, deadline=None)
def test_no_walk_breaks_the_rules_of_money_order_and_proof(moves):
    events = [event.data for event in walk(moves).log]
    assert [
        *build_invariants.money(events),
        *build_invariants.order(events),
        *build_invariants.proof(events),
    ] == []


def test_a_walk_reaches_ready():
    """Otherwise the properties would hold for no event."""
    assert "build.ready" in walk([4, 4, 5, 4, 4, 4, 4, 3, 4, 4, 4]).types()
