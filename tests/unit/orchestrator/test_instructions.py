"""AGENTS.md and skills of the workspace reach the agent when they appear or change, and never twice."""

import json
import subprocess

import pytest
from tests.unit.orchestrator.build_scenario import BuildScenario, begun, requested, text, tool_use

from nightshift.contracts.events.build import AgentSteered, ToolCallRequested
from nightshift.devstack.model.conversation import validate
from nightshift.orchestrator.domain import prompt

SKILL = "---\nname: prices\ndescription: How prices are rounded.\n---\nRound half to even.\n"
CLONE = {"command": "git clone https://git.example/app ."}


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "AGENTS.md").write_text("Use pnpm.\n" + "x" * 20_000)
    (tmp_path / "CLAUDE.md").symlink_to("AGENTS.md")
    folder = tmp_path / ".claude" / "skills" / "prices"
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text(SKILL)
    return tmp_path


def script(scenario: BuildScenario) -> str:
    [call] = [one for one in scenario.requested_calls() if one.purpose == "instructions"][-1:]
    return str(call.input["command"])


def output(script: str, folder) -> str:
    """What the gateway returns for the loop's command."""
    ran = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    return f"{ran.stdout}\n[exit code 0]".lstrip("\n")


def read(scenario: BuildScenario, folder, given: dict = CLONE, id: str = "c1") -> None:
    """One turn whose call may bring instructions, which the loop then reads from the folder."""
    events = scenario.thinks(tool_use(given=given, id=id))
    agents, loops = requested(events)
    assert (agents.purpose, loops.purpose, loops.index) == ("agent", "instructions", 1)
    for call in scenario.state.tool_calls:
        scenario.result(call, "ok" if call.purpose == "agent" else output(script(scenario), folder))


def messages(scenario: BuildScenario) -> list[str]:
    return [e.data.message for e in scenario.log if getattr(e.data, "reason", None) == "instructions"]


def test_instructions_that_a_call_brings_are_appended_once(workspace):
    scenario = begun()
    read(scenario, workspace)
    scenario.thinks(tool_use(id="c2"))
    scenario.results()
    [told] = messages(scenario)
    assert "not from a person" in told
    assert told.count("Use pnpm.") == 1
    assert "description: How prices are rounded." in told
    assert ".claude/skills/prices/SKILL.md" in told
    assert "half to even" not in told
    assert len(told) < 12_000
    read(scenario, workspace, {"command": "git pull"}, "c3")
    scenario.step()
    assert len(messages(scenario)) == 1
    body = json.loads(prompt.request_bytes(scenario.state, scenario.policy))
    validate(body)


def test_changed_instructions_are_told_again(workspace):
    scenario = begun()
    read(scenario, workspace)
    scenario.thinks(tool_use(id="c2"))
    scenario.results()
    (workspace / "AGENTS.md").write_text("Use npm.\n")
    read(scenario, workspace, {"command": "sed -i s/pnpm/npm/ AGENTS.md"}, "c3")
    scenario.step()
    assert [("Use npm." in one) for one in messages(scenario)] == [False, True]


def test_an_empty_workspace_and_a_failed_reading_say_nothing(tmp_path):
    scenario = begun()
    read(scenario, tmp_path)
    scenario.step()
    assert scenario.last(ToolCallRequested).purpose == "instructions"
    assert messages(scenario) == []
    assert not any(isinstance(e.data, AgentSteered) for e in scenario.log)


def test_a_call_that_brings_nothing_is_followed_by_no_reading():
    scenario = begun()
    assert len(requested(scenario.thinks(tool_use(given={"command": "pytest -q"}), text("…")))) == 1


def test_the_reading_is_no_call_of_the_agent(workspace):
    scenario = begun()
    read(scenario, workspace)
    assert scenario.state.tool_calls_made == 1
    results = [entry for entry in scenario.state.conversation.entries if hasattr(entry, "results")]
    assert [len(entry.results) for entry in results] == [1]
