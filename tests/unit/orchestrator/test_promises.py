"""The promises of the loop, over random orders of facts with judge and condenser, questions, sleeps and faults."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import build_invariants
from tests.unit.orchestrator.build_scenario import BuildScenario, answer, completed, text, tool_use
from tests.unit.orchestrator.random_life import GIVEN, POLICY, RandomLife
from tests.unit.orchestrator.test_waiting_walks import broken

from nightshift.contracts.events.build import (
    BuildFailed,
    BuildReady,
    CheckpointSaved,
    ContextCondensed,
    CriteriaJudged,
    EscalationRaised,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.model import Event
from nightshift.orchestrator.domain.commands import AbandonCall, StartCall
from nightshift.orchestrator.domain.next_step import AwaitFact, AwaitModel
from nightshift.orchestrator.domain.state import RunMode, ToolResults

MOVES = st.lists(st.integers(0, 25), min_size=20, max_size=140)
#: The most paid calls in a row without an answer, before the build ends.
IN_A_ROW = POLICY.attempts + POLICY.provider_sleeps


@given(MOVES)
@settings(max_examples=40, deadline=None)
def test_no_order_of_facts_breaks_a_promise(moves: list[int]) -> None:
    life = RandomLife(moves)  # checks each request as strictly as the provider
    events = [event.data for event in life.scenario.log]
    found = [*broken(events), *build_invariants.money(events), *build_invariants.order(events)]
    assert [*found, *build_invariants.proof(events), *out_of_order(life.scenario)] == []
    ends = [place for place, event in enumerate(events) if event.terminal]
    assert ends in ([], [len(events) - 1]), "nothing follows the end"
    assert spent_between_checkpoints(events) <= most_between_checkpoints(events)
    grown(life.requests, events)


def out_of_order(scenario: BuildScenario) -> list[str]:
    """Results that do not stand in the order of their calls, in the conversations of builder and judge."""
    asked = {
        event.data.tool_use_id: event.data.index
        for event in scenario.log
        if hasattr(event.data, "tool_use_id") and hasattr(event.data, "index")
    }
    talks = [scenario.state.conversation]
    talks += [scenario.state.judging.conversation] if scenario.state.judging else []
    rows = [
        [asked[one.tool_use_id] for one in entry.results if one.tool_use_id in asked]
        for talk in talks
        for entry in talk.entries
        if isinstance(entry, ToolResults)
    ]
    return [f"results in the order {row}" for row in rows if row != sorted(row)]


def grown(requests: list[tuple[str, list[str]]], events: list[Event]) -> None:
    """Asserts that each request of a role begins with the one before it, except after a new round or summary."""
    boundaries = sum(isinstance(event, ContextCondensed | CriteriaJudged) for event in events)
    breaks = 0
    for role in ("builder", "judge"):
        own = [messages for one, messages in requests if one == role]
        breaks += sum(after[: len(before)] != before for before, after in pairwise(own))
    rounds_left_open = sum(
        isinstance(event, ToolCallRequested) and event.purpose == "check" for event in events
    )
    assert breaks <= boundaries + rounds_left_open


def spent_between_checkpoints(events: list[Event]) -> int:
    """The most microdollars that were spent between two checkpoints."""
    most = spent = 0
    for event in events:
        if isinstance(event, CheckpointSaved):
            spent = 0
        spent += event.cost_microusd if isinstance(event, ModelCallResponded | ModelCallFailed) else 0
        most = max(most, spent)
    return most


def most_between_checkpoints(events: list[Event]) -> int:
    """One turn, the judge's round after it and a summary, each answer after as many paid failures as are possible.

    A call that a person stops comes on top.
    """
    worst = max(
        (event.reserve_microusd for event in events if isinstance(event, ModelCallStarted)), default=0
    )
    stopped = sum(isinstance(event, ModelCallFailed) and event.kind == "cancelled" for event in events)
    return (IN_A_ROW * (1 + POLICY.judge_answers + 1) + stopped) * worst


@pytest.mark.parametrize("role", ["builder", "judge"])
def test_calls_that_are_paid_and_never_answered_end_the_build(role: str) -> None:
    scenario = BuildScenario(policy=POLICY, request=GIVEN)
    scenario.granted()
    if role == "judge":
        scenario.thinks(tool_use())
        scenario.results()
        scenario.thinks(text())
        scenario.results()
    before, calls = scenario.state.funds.spent, 0
    while scenario.state.mode is not RunMode.ENDED:
        step = scenario.next()
        if isinstance(step, StartCall):
            assert step.role == role
            scenario.do(step)
            scenario.do(AbandonCall())
            calls += 1
        elif scenario.state.mode is RunMode.SLEEPING and scenario.state.wake_reason is None:
            scenario.passes(4_000)
            scenario.woken()
        elif isinstance(step, AwaitFact):
            scenario.granted()
        else:
            scenario.step()
    assert calls == IN_A_ROW
    assert scenario.last(BuildFailed).reason == "model_error"
    worst = scenario.last(ModelCallStarted).reserve_microusd
    assert scenario.state.funds.spent - before <= calls * worst


def test_no_call_of_the_judge_starts_before_all_its_results() -> None:
    scenario = BuildScenario(policy=POLICY, request=GIVEN)
    scenario.granted()
    scenario.thinks(tool_use())
    scenario.results()
    scenario.thinks(text())
    scenario.results()
    scenario.thinks(*(tool_use("read_file", {"file_path": name}, id=name) for name in "abc"))
    for number in (3, 1, 2):
        assert isinstance(scenario.next(), AwaitFact)
        scenario.others(completed(f"b1/2/{number}"))
    scenario.step()
    assert isinstance(scenario.next(), AwaitModel)
    scenario.do(answer(text()))


def test_a_random_life_reaches_what_the_promises_are_about() -> None:
    """Otherwise they would hold for no event."""
    kinds: set[object] = set()
    for seed in (4, 17, 23):
        life = RandomLife(random.Random(seed).choices(range(26), k=140))
        kinds |= {type(event.data) for event in life.scenario.log}
        kinds |= {role for role, _ in life.requests}
        kinds |= {getattr(event.data, "reason", None) for event in life.scenario.log}
    wanted = {ContextCondensed, CriteriaJudged, EscalationRaised, BuildReady, SleepRequested}
    assert kinds >= wanted | {"builder", "judge", "condenser", "criteria_not_met", "sandbox_restored"}
