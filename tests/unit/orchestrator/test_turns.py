"""One turn: the model call, its tool calls, their results and the checkpoint."""

from uuid import UUID

from tests.unit.orchestrator.build_scenario import (
    BuildScenario,
    answer,
    begun,
    completed,
    requested,
    text,
    tool_use,
    working,
)

from nightshift.contracts.events.build import (
    Phase,
    ToolCallRequested,
)
from nightshift.orchestrator.domain.commands import (
    MessageAgent,
)
from nightshift.orchestrator.domain.decide import decide
from nightshift.orchestrator.domain.next_step import AwaitFact, AwaitModel

NOW_CAUSE = UUID(int=77)


def test_accepting_asks_for_money_at_once():
    scenario = BuildScenario()
    assert scenario.types() == ["build.accepted", "build.phase_changed", "budget.requested"]
    assert scenario.next() == AwaitFact()


def test_the_first_turn():
    scenario = begun()
    assert [event.type for event in scenario.step()] == ["build.phase_changed", "model_call.started"]
    assert scenario.state.phase is Phase.SCAFFOLD
    assert scenario.next() == AwaitModel()
    events = scenario.do(
        answer(text("Let me look."), tool_use(id="t1"), tool_use("glob", {"pattern": "*"}, id="t2"))
    )
    assert [call.call_id for call in requested(events)] == ["b1/1/0", "b1/1/1"]
    assert scenario.next() == AwaitFact()


def test_the_checkpoint_comes_with_the_next_call():
    scenario = begun()
    scenario.thinks(tool_use(id="t1"), tool_use("glob", {"pattern": "*"}, id="t2"))
    scenario.others(completed("b1/1/1"))
    assert scenario.next() == AwaitFact()
    scenario.others(completed("b1/1/0"))
    assert [event.type for event in scenario.step()] == ["checkpoint.saved", "model_call.started"]


def test_a_second_result_for_a_call_changes_nothing():
    scenario = begun()
    scenario.thinks(tool_use(id="t1"), tool_use(id="t2", given={"command": "false"}))
    scenario.others(completed("b1/1/0", output="first"))
    scenario.others(completed("b1/1/0", output="second"))
    assert [call.result and call.result.output for call in scenario.state.tool_calls] == ["first", None]


def test_the_agent_tells_its_phase_forward_only():
    scenario = begun()
    scenario.thinks(tool_use("narrate", {"phase": "code", "message": "now code"}))
    assert scenario.state.phase is Phase.CODE
    scenario.results()
    scenario.thinks(tool_use("narrate", {"phase": "scaffold", "message": "back"}))
    assert scenario.state.phase is Phase.CODE
    scenario.results()
    scenario.thinks(tool_use("narrate", {"phase": "checks", "message": "I check"}))
    assert scenario.state.phase is Phase.CODE


def test_the_calls_of_an_answer_with_an_unknown_stop_reason_are_run():
    scenario = begun()
    assert requested(scenario.thinks(tool_use(), stop_reason="a_reason_of_next_year"))


def test_a_persons_message_comes_after_the_results_of_the_turn():
    scenario = begun()
    scenario.thinks(tool_use())
    scenario.do(MessageAgent("use blue", NOW_CAUSE))
    scenario.results()
    scenario.step()
    assert [type(entry).__name__ for entry in scenario.state.conversation.entries] == [
        "UserMessage",  # what is left of the limits
        "AssistantMessage",
        "ToolResults",
        "UserMessage",
    ]


def test_a_command_gets_more_time_when_it_asks_for_it():
    scenario = begun()
    (call,) = requested(scenario.thinks(tool_use(given={"command": "make", "timeout_s": 900})))
    assert call.timeout_s > 900
    assert isinstance(call, ToolCallRequested)


def test_deciding_twice_gives_the_same_events():
    scenario = working()
    step = scenario.next()
    assert decide(scenario.state, step, scenario.now, scenario.policy) == decide(
        scenario.state, step, scenario.now, scenario.policy
    )
