"""Random walks through a build's life: whatever is decided can be folded, and the fold of each prefix is one."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import build_invariants
from tests.unit.orchestrator.story import Story, answer, text, tool_use

from nightshift.contracts.events.build import Usage
from nightshift.orchestrator.domain import prompt
from nightshift.orchestrator.domain.commands import AbandonCall, CallFailed, Complete, Step
from nightshift.orchestrator.domain.evolve import evolve
from nightshift.orchestrator.domain.next_step import Ended
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import INITIAL, RunMode

MOVES = st.lists(st.integers(0, 9), min_size=5, max_size=60)


def walk(moves: list[int]) -> Story:
    story = Story(policy=Policy(grant_microusd=1, attempts=2))
    for number, move in enumerate(moves):
        step = story.next()
        if isinstance(step, Ended):
            break
        if isinstance(step, Step):
            story.do(Complete(1) if isinstance(step, Complete) else step)
        elif story.state.mode is RunMode.SLEEPING:
            story.passes(4_000)
            story.woken()
        elif story.state.funds.asked is not None and story.state.call is None:
            story.denied() if move == 0 else story.granted()
        elif story.state.call is not None:
            _end_call(story, move, number)
        elif story.state.tool_calls:
            story.results(is_error=move % 3 == 0)
        else:
            story.passes(100)
    return story


def _end_call(story: Story, move: int, number: int) -> None:
    match move:
        case 0:
            story.do(AbandonCall())
        case 1:
            story.do(CallFailed("overloaded", "no", status=529))
        case 2:
            story.do(CallFailed("stream_cut", "no", maybe_billed=True))
        case 3:
            story.do(answer(text(), usage=Usage(input_tokens=50, cache_read_input_tokens=900)))
        case 4:
            story.do(answer(text(), tool_use(), stop_reason="max_tokens"))
        case _:
            story.do(answer(tool_use(given={"command": f"echo {number // 3}"}, id=f"t{number}")))


@given(MOVES)
@settings(max_examples=60, deadline=None)
def test_each_prefix_folds_to_one_state_with_one_request(moves):
    story = walk(moves)
    state = INITIAL
    for event in story.log:
        state = evolve(state, event)
    assert state == story.state
    assert prompt.request_bytes(state, story.policy) == prompt.request_bytes(story.state, story.policy)
    costs = [getattr(e.data, "cost_microusd", 0) for e in story.log if e.data.type.startswith("model_call.")]
    assert state.funds.spent == sum(costs)


@given(MOVES)
@settings(max_examples=40, deadline=None)
def test_what_was_written_at_the_turns_before_gives_the_same_bytes(moves):
    story, state, rendered = walk(moves), INITIAL, prompt.RenderedMessages()
    for event in story.log:
        state = evolve(state, event)
        kept = prompt.request_bytes(state, story.policy, rendered)
        assert kept == prompt.request_bytes(state, story.policy)
    # Of another past, such as the state folded anew, nothing is taken over.
    refolded = INITIAL
    for event in story.log:
        refolded = evolve(refolded, event._replace(data=event.data.model_copy()))
    assert prompt.request_bytes(refolded, story.policy, rendered) == kept
    early = evolve(INITIAL, story.log[0])
    assert prompt.request_bytes(early, story.policy, rendered) == prompt.request_bytes(early, story.policy)


@given(MOVES)
@settings(max_examples=60, deadline=None)
def test_no_walk_breaks_the_rules_of_money_and_order(moves):
    events = [event.data for event in walk(moves).log]
    assert [*build_invariants.money(events), *build_invariants.order(events)] == []


def test_walks_get_somewhere():
    """Else the properties would hold of nothing."""
    assert "build.ready" in walk([4, 4, 5, 4, 4, 4, 4, 3, 4, 4, 4]).types()
