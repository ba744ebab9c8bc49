"""The checks that run when the agent is done, with the preview that it opened."""

import pytest
from tests.unit.orchestrator.build_scenario import (
    REQUEST,
    BuildScenario,
    begun,
    requested,
    text,
    tool_use,
    working,
)

from nightshift.contracts.events.build import (
    AgentSteered,
    BuildFailed,
    BuildReady,
    Phase,
    Usage,
)
from nightshift.contracts.events.requests import Check
from nightshift.contracts.events.sandbox import (
    PreviewOpened,
    SandboxOpened,
    ToolCallCompleted,
)
from nightshift.orchestrator.domain.commands import (
    Complete,
    Fail,
    SendBack,
)
from nightshift.orchestrator.domain.next_step import Ended
from nightshift.orchestrator.domain.policy import Policy


def test_done_means_checked_and_the_sum_of_the_log_is_the_cost():
    scenario = working()
    scenario.others(SandboxOpened(sandbox_id="s1", driver="local", generation=1))
    scenario.others(PreviewOpened(sandbox_id="s1", port=8000, url="http://127.0.0.1:9"))
    usage = Usage(
        input_tokens=10, output_tokens=20, cache_read_input_tokens=3_000, cache_write_5m_input_tokens=400
    )
    events = scenario.thinks(text(), usage=usage)
    assert [(call.tool, call.purpose) for call in requested(events)] == [
        ("bash", "check"),
        ("open_port", "preview"),
    ]
    assert scenario.state.phase is Phase.CHECKS
    scenario.results()
    assert scenario.next() == Complete()
    scenario.do(Complete(build_version=3))
    ready = scenario.last(BuildReady)
    costs = [
        getattr(event.data, "cost_microusd", 0)
        for event in scenario.log
        if event.data.type.startswith("model_call.")
    ]
    assert ready.cost_microusd == sum(costs) > 0
    assert (ready.build_version, ready.sandbox_id, ready.preview_url) == (3, "s1", "http://127.0.0.1:9")
    assert (ready.turns, ready.tool_calls) == (2, 1)
    assert scenario.next() == Ended()


def opened(
    scenario: BuildScenario, path: str, *, port: int = 8000, is_error: bool = False, url: str = "http://h:9"
) -> None:
    """The agent opens a port, and the gateway records the result."""
    scenario.thinks(tool_use("open_port", {"port": port, "path": path}))
    scenario.others(PreviewOpened(sandbox_id="s1", port=port, url=url))
    scenario.results(is_error=is_error)


def preview_check(scenario: BuildScenario) -> dict:
    """The input of the `open_port` call in the round of checks, after the agent ends its work."""
    *_, call = requested(scenario.thinks(text()))
    assert (call.tool, call.purpose) == ("open_port", "preview")
    return call.input


@pytest.mark.parametrize("url", ["http://h:9", "http://h:9/", "http://h:9/health?deep=1"])
def test_the_path_that_the_agent_opened_is_checked_and_shown(url):
    scenario = begun()
    opened(scenario, "/health?deep=1", url=url)
    assert preview_check(scenario) == {"port": 8000, "path": "/health?deep=1"}
    scenario.results()
    scenario.do(Complete(build_version=1))
    assert scenario.last(BuildReady).preview_url == "http://h:9/health?deep=1"


def test_a_path_that_answered_stays_when_a_later_one_does_not():
    scenario = begun()
    opened(scenario, "/health")
    opened(scenario, "/nowhere", is_error=True)
    assert preview_check(scenario)["path"] == "/health"


def test_the_last_path_that_answered_is_checked():
    scenario = begun()
    opened(scenario, "/health")
    opened(scenario, "/app")
    assert preview_check(scenario)["path"] == "/app"


def test_a_path_of_another_port_is_not_checked():
    scenario = begun()
    opened(scenario, "/health")
    opened(scenario, "/", port=9000)
    assert preview_check(scenario) == {"port": 9000, "path": "/"}


def test_a_preview_that_fails_is_named_with_its_path():
    scenario = begun()
    opened(scenario, "/health")
    preview_check(scenario)
    scenario.results(is_error=True, exit_code=None)
    scenario.step()
    assert "The preview on port 8000, path /health, failed" in scenario.last(AgentSteered).message


def test_the_checks_of_the_request_are_run_instead_of_what_is_found():
    request = REQUEST.model_copy(update={"checks": (Check(name="unit", command="make unit", timeout_s=7),)})
    scenario = working(request=request)
    (call,) = requested(scenario.thinks(text()))
    assert (call.input["command"], call.timeout_s) == ("make unit", 7)


def test_a_failed_check_goes_back_to_the_agent_until_no_try_is_left():
    scenario = working(policy=Policy(check_tries=2))
    scenario.thinks(text())
    scenario.results(is_error=True, output="1 failed: test_x", exit_code=1)
    assert scenario.next() == SendBack()
    scenario.step()
    assert scenario.state.phase is Phase.CODE
    assert "1 failed: test_x" in scenario.last(AgentSteered).message
    scenario.thinks(text("Fixed."))
    scenario.results(is_error=True, exit_code=1)
    step = scenario.next()
    assert isinstance(step, Fail)
    scenario.do(step)
    assert scenario.last(BuildFailed).reason == "checks_failed"


def test_a_check_whose_time_was_up_is_told_so():
    scenario = working()
    scenario.thinks(text())
    (call,) = scenario.state.tool_calls
    scenario.others(
        ToolCallCompleted(call_id=call.call_id, is_error=True, error_kind="timeout", output="", duration_ms=9)
    )
    scenario.step()
    assert "tests failed because the time was up" in scenario.last(AgentSteered).message


def test_an_end_before_any_work_is_asked_about_once():
    scenario = begun()
    scenario.thinks(text("I cannot."))
    assert scenario.last(AgentSteered).reason == "no_tool_call"
    scenario.thinks(text("I still cannot."))
    assert scenario.last(BuildFailed).reason == "unproven"
    assert "nothing was built" in scenario.last(BuildFailed).detail


def test_checks_of_the_request_judge_an_end_without_any_work():
    request = REQUEST.model_copy(update={"checks": (Check(name="unit", command="make unit", timeout_s=7),)})
    scenario = begun(request=request)
    scenario.thinks(text("There is nothing to do."))
    scenario.thinks(text("There still is nothing to do."))
    assert [call.purpose for call in scenario.state.tool_calls] == ["check"]
