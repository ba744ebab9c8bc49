"""What a scenario file may say, and how its author learns of a mistake."""

import json
import re
from pathlib import Path

import pytest

from nightshift.devstack.errors import BadScenario
from nightshift.devstack.model.scenario import Scenario, load_scenario, parse_scenario

ROOT = Path(__file__).parents[3]


def _positions(text: str) -> list[list[int] | None]:
    positioned = parse_scenario(f"name: t\nturns:\n{text}").positioned()
    return [None if one.positions is None else list(one.positions) for one in positioned]


def test_turns_that_answer_follow_each_other() -> None:
    assert _positions("- say: a\n- {say: b, repeat: 3}\n- say: c\n") == [[0], [1, 2, 3], [4]]


def test_a_failure_stands_before_the_next_answer() -> None:
    assert _positions("- say: a\n- status: 529\n- say: b\n") == [[0], [1], [1]]


def test_a_cut_answer_takes_no_position_either() -> None:
    assert _positions("- {say: a, cut_after: 2}\n- say: a\n- say: b\n") == [[0], [0], [1]]


def test_any_stands_outside_of_the_sequence() -> None:
    assert _positions("- {at: any, say: x}\n- say: a\n- {at: 7, say: b}\n- say: c\n") == [None, [0], [7], [8]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: t\nturns:\n- say: a\n- say: b\n  wait: 1\n", r"turn 2 \(line 4\): wait: Extra inputs"),
        ("name: t\nturns:\n- {}\n", r"turn 1 \(line 3\): it answers nothing"),
        ("name: t\nturns:\n- {status: 500, say: x}\n", r"turn 1 \(line 3\): it has a `status` and an answer"),
        ("name: t\nturns:\n- {status: 200}\n", r"turn 1 \(line 3\): status: Input should be greater"),
        ("name: t\nturns:\n- {say: x, once: true, times: 2}\n", "`once` and `times`"),
        (
            "name: t\nturns:\n- say: x\n  match: {last_result_matches: '('}\n",
            "match.last_result_matches: not a regular",
        ),
        ("name: t\nturns:\n- say: x\n  match: {result: y}\n", "match.result: Extra inputs"),
        ("turns:\n- say: x\n", "name: Field required"),
        ("name: t\nturns: []\n", "turns: Tuple should have at least 1 item"),
        ("name: [\n", "is not YAML"),
        (
            "name: t\nturns:\n- calls: [{tool: bash, input: {since: 2026-11-26}}]\n",
            r"turn 1 \(line 3\): calls.0.input: Object of type date is not JSON serializable: .* quoted",
        ),
        ("name: t\nturns:\n- calls: [{tool: bash, input: {a: !!binary aGk=}}]\n", "calls.0.input: .* bytes"),
        ("name: t\nturns:\n- calls: [{tool: bash, input: {a: .nan}}]\n", "calls.0.input: Out of range float"),
        (
            "name: t\nturns:\n- calls: [{tool: bash, input: &x {a: *x}}]\n",
            "calls.0.input: .*(itself|Circular)",
        ),
        ("name: t\nturns:\n- {say: x, delay: .inf}\n", "delay: Input should be a finite number"),
        ("name: t\nturns:\n- say: x\n  delay: 1\n  say: y\n", "line 5: say is given twice"),
        ("name: t\nturns: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_a_mistake_is_told_with_turn_line_and_field(text: str, said: str) -> None:
    with pytest.raises(BadScenario, match=said):
        parse_scenario(text)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            "{tool: write_file, input: {path: a, content: b}}",
            "write_file: file_path: Field required; path: Extra",
        ),
        ("{tool: write_file, input: {file_path: a}}", "write_file: content: Field required"),
        ("{tool: bash}", "bash: `command` is needed"),
        ("{tool: open_port, input: {port: 70000}}", "open_port: port: Input should be less than"),
        ("{tool: run, input: {command: ls}}", "there is no tool called run; there are bash, read_file, "),
        ("{tool: bash, input: {command: ls}, invalid: true}", "marked `invalid: true`, but its input fits"),
    ],
)
def test_a_call_that_breaks_its_schema_is_refused(call: str, said: str) -> None:
    text = f"name: t\nturns:\n- say: a\n- name: look\n  calls: [{{tool: glob, input: {{pattern: '*'}}}}, {call}]\n"
    with pytest.raises(BadScenario, match=r"turn 2 \(line 4\): calls\.1: .*" + re.escape(said)):
        parse_scenario(text)


@pytest.mark.parametrize(
    "call",
    [
        "{tool: write_file, input: {path: a}, invalid: true}",
        "{tool: open_port, input: {port: '{{port}}'}}",
        "{tool: document, input: {file_path: '{{name}}', content: x}}",
    ],
)
def test_a_marked_call_and_placeholders_pass(call: str) -> None:
    assert parse_scenario(f"name: t\nturns:\n- calls: [{call}]\n").turns[0].calls


@pytest.mark.parametrize(
    "file", [*ROOT.glob("examples/scenarios/*.yaml"), *ROOT.glob("tests/e2e/*/scenario.yaml")]
)
def test_every_scenario_of_this_repository_is_valid(file: Path) -> None:
    assert load_scenario(file).turns


def test_a_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(BadScenario, match="no-such"):
        load_scenario(tmp_path / "no-such.yaml")


def test_the_built_in_scenario_is_valid_and_ends() -> None:
    scenario = load_scenario(None)
    assert not scenario.turns[-1].calls


def test_there_is_a_json_schema_for_editors() -> None:
    schema = Scenario.model_json_schema()
    assert "turns" in schema["properties"]
    assert json.dumps(schema)
