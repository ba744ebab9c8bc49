"""Which calls of the agent are repetition, and what follows from it."""

from uuid import UUID

import pytest
from tests.unit.orchestrator.build_scenario import (
    REQUEST,
    answer,
    begun,
    tool_use,
)

from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.events.build import (
    AgentSteered,
    EscalationRaised,
)
from nightshift.orchestrator.domain.commands import (
    Escalate,
    GiveApproval,
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


def fails(scenario, command: str, output: str, exit_code: int = 1) -> None:
    scenario.thinks(tool_use(given={"command": command}))
    scenario.results(is_error=True, output=output, exit_code=exit_code)


def steered(scenario) -> str | None:
    """The warning about repetition that the next model call brings. None when it brings none."""
    scenario.step()
    warnings = [one.data for one in scenario.log if isinstance(one.data, AgentSteered)]
    return warnings[-1].message if warnings and warnings[-1].reason == "repetition" else None


def test_the_warning_shows_the_call_and_its_result():
    scenario = begun()
    for _ in range(3):
        scenario.thinks(tool_use(given={"command": "cat notes.txt"}))
        scenario.results(output="nothing new\n[exit code 0]")
    message = steered(scenario)
    assert "`bash cat notes.txt` returned the same 3 times: nothing new" in message


def test_the_warning_about_alternating_calls_shows_both():
    scenario = begun()
    for number in range(5):
        scenario.thinks(tool_use(given={"command": ("ls", "pwd")[number % 2]}))
        scenario.results()
    assert "`bash ls` and `bash pwd` returned the same each time" in steered(scenario)


#: Three outputs of different commands that fail for one reason.
SAME = {
    "numbers and times": [f"12:0{n}:07 error: timed out after {n * 17} ms" for n in range(3)],
    "paths": [f"[stderr]\nls: cannot access '/srv/{n}/a-{n}.txt': No such file or directory" for n in "abc"],
    "addresses": [f"RuntimeError: <Pool object at 0x7f{n}a0c> is closed" for n in range(3)],
    "ids": [
        f"fatal: lease 7d3822d1-ecf0-5e3e-8ff2-09e700ef0ad{n} refused by 9f86d08188{n}" for n in range(3)
    ],
    "other lines around it": [
        f"trying {n}\nnpm error network: cannot reach the registry\nsee the log {n}" for n in "xyz"
    ],
}
#: Three outputs of commands that fail for different reasons, or that do not say why.
DIFFERENT = {
    "other words": [f"ModuleNotFoundError: No module named '{n}'" for n in ("flask", "yaml", "attr")],
    "no words": ["", "[exit code 1]", "[exit code 1]"],
}


@pytest.mark.parametrize("outputs", SAME.values(), ids=SAME)
def test_different_commands_with_one_error_are_repetition(outputs):
    scenario = begun()
    for number, output in enumerate(outputs):
        assert "agent.steered" not in scenario.types()
        fails(scenario, f"attempt --number {number}", output)
    message = steered(scenario)
    assert "`bash attempt --number 0`, `bash attempt --number 1`, `bash attempt --number 2`" in message
    assert "failed with the same error" in message


@pytest.mark.parametrize("outputs", DIFFERENT.values(), ids=DIFFERENT)
def test_commands_that_fail_for_different_reasons_are_no_repetition(outputs):
    scenario = begun()
    for number, output in enumerate(outputs):
        fails(scenario, f"attempt {number}", output)
    assert steered(scenario) is None


def test_the_same_error_after_a_warning_ends_the_build():
    scenario = begun()
    for number in range(6):
        fails(scenario, f"attempt {number}", f"error: refused after {number} ms")
    scenario.step()
    failed = scenario.last(EscalationRaised)
    assert failed.kind == "repetition"
    assert "refused after 5 ms" in failed.detail


def test_an_error_that_is_polled_with_new_results_is_progress():
    scenario = begun()
    for number in range(12):
        fails(scenario, "sleep 2; curl localhost:8000", f"error: connection refused after {number} ms")
    assert steered(scenario) is None


def test_an_edit_between_the_same_errors_is_progress():
    scenario = begun()
    for number in range(8):
        fails(scenario, f"make test{number}", "AssertionError: assert 1 == 2")
        scenario.thinks(tool_use("edit_file", {"file_path": "a.py", "old_string": f"{number}"}))
        scenario.results()
    assert steered(scenario) is None


def test_guesses_of_one_turn_count_once():
    scenario = begun()
    for turn in range(2):
        scenario.thinks(
            *(tool_use("read_file", {"file_path": f"{turn}{n}.py"}, id=f"t{n}") for n in range(4))
        )
        scenario.results(is_error=True, output="cannot read it: No such file", exit_code=None)
    assert steered(scenario) is None


def test_many_parallel_calls_that_repeat_are_found():
    """Three turns of five calls are more than ten calls."""
    scenario = begun()
    for turn in range(3):
        assert "agent.steered" not in scenario.types()
        uses = [tool_use(given={"command": f"cat {name}"}, id=f"t{turn}{name}") for name in "abcde"]
        scenario.thinks(*uses)
        scenario.results()
    scenario.step()
    assert scenario.last(AgentSteered).reason == "repetition"


def test_calls_of_more_than_ten_turns_ago_do_not_count():
    scenario = begun()
    for number in range(13):
        scenario.thinks(tool_use(given={"command": "make" if number % 6 == 0 else f"cat {number % 3}"}))
        scenario.results(output="same" if number % 6 == 0 else f"{number}")
    scenario.step()
    assert "agent.steered" not in scenario.types()


def test_a_call_that_is_denied_again_and_again_is_repetition():
    policy = ApprovalPolicy(ask=("bash(git push *)",))
    scenario = begun(request=REQUEST.model_copy(update={"approvals": policy}))
    for turn in range(1, 4):
        scenario.thinks(tool_use(given={"command": "git push"}, id=f"t{turn}"))
        scenario.step()
        denial = GiveApproval(f"b1/{turn}/0", approved=False, comment="No.", cause=UUID(int=turn))
        scenario.do(denial)
        scenario.granted()
    scenario.step()
    assert scenario.last(AgentSteered).reason == "repetition"
    assert "git push" in scenario.last(AgentSteered).message
