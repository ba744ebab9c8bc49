"""Which calls of the agent are repetition, and what follows from it."""

import pytest
from tests.unit.orchestrator.build_scenario import (
    answer,
    begun,
    tool_use,
)

from nightshift.contracts.events.build import (
    AgentSteered,
    EscalationRaised,
)
from nightshift.orchestrator.domain.commands import (
    Escalate,
)
from nightshift.orchestrator.domain.next_step import Waiting
from nightshift.orchestrator.domain.state import RunMode


def test_repetition_is_warned_once_and_then_asks_a_person():
    scenario = begun()
    for _ in range(3):
        assert "agent.steered" not in scenario.types()
        scenario.thinks(tool_use())
        scenario.results()
    scenario.step()
    assert scenario.last(AgentSteered).reason == "repetition"
    scenario.do(answer(tool_use()))
    scenario.results()
    for _ in range(2):
        scenario.thinks(tool_use())
        scenario.results()
    scenario.step()
    assert scenario.last(EscalationRaised).kind == "repetition"
    assert scenario.next() == Waiting()


def test_a_repeated_call_with_new_results_is_progress():
    scenario = begun()
    for number in range(12):
        scenario.thinks(tool_use(given={"command": "sleep 2; tail -1 job.log"}))
        scenario.results(output=f"{number} of 12 files")
    scenario.step()
    assert "agent.steered" not in scenario.types()


@pytest.mark.parametrize("result", [{}, {"output": "other"}, {"exit_code": 3}, {"is_error": True}])
def test_any_part_of_a_result_that_changes_is_progress(result):
    scenario = begun()
    for changes in ({}, {}, result):
        scenario.thinks(tool_use())
        scenario.results(**changes)
    scenario.step()
    assert ("agent.steered" in scenario.types()) == (result == {})


def test_a_slow_job_that_moves_on_is_warned_before_it_stops():
    scenario = begun()
    for number in range(18):
        scenario.thinks(tool_use(given={"command": "sleep 60; tail -1 job.log"}))
        scenario.results(output=f"step {number // 3}")
    assert scenario.last(AgentSteered).reason == "repetition"
    assert scenario.state.mode is RunMode.RUNNING
    for _ in range(8):
        if scenario.state.mode is RunMode.RUNNING:
            scenario.thinks(tool_use(given={"command": "sleep 60; tail -1 job.log"}))
            scenario.results(output="step 5")
            if isinstance(scenario.next(), Escalate):
                scenario.step()
    assert scenario.last(EscalationRaised).kind == "repetition"


def test_editing_and_running_the_tests_is_no_repetition():
    scenario = begun()
    for number in range(12):
        scenario.thinks(
            tool_use("edit_file", {"file_path": "a.py", "old_string": f"{number}", "new_string": "x"})
        )
        scenario.results()
        scenario.thinks(tool_use(given={"command": "make test"}))
        scenario.results(is_error=True, exit_code=1)
    assert "agent.steered" not in scenario.types()


def test_reading_a_background_command_is_no_repetition():
    scenario = begun()
    for _ in range(6):
        scenario.thinks(tool_use(given={"action": "read", "handle": "b1/1/0"}))
        scenario.results()
    assert "agent.steered" not in scenario.types()


def test_two_alternating_calls_are_repetition():
    scenario = begun()
    for number in range(5):
        scenario.thinks(tool_use(given={"command": ("ls", "pwd")[number % 2]}))
        scenario.results()
    scenario.step()
    assert scenario.last(AgentSteered).reason == "repetition"


def test_the_same_call_now_and_then_is_no_repetition():
    scenario = begun()
    for number in range(12):
        same = number % 5 == 0
        scenario.thinks(tool_use(given={"command": "same" if same else f"echo {number}"}))
        scenario.results()
    assert "agent.steered" not in scenario.types()
