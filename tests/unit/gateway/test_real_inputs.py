"""Inputs as sessions with other agents send them: the harmless ones are understood, the rest is refused by name."""

from typing import Any

import pytest

from nightshift.contracts.tools import ToolInput
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome
from nightshift.sandbox_gateway.domain.parse_input import parse_input

HOME = "/home/user/workspace"
#: Tool, input as it was sent, and what the tool must take from it.
ACCEPTED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("bash", {"command": "ls", "description": "List files"}, {"command": "ls", "timeout_s": None}),
    ("bash", {"command": "make", "timeout": 120_000}, {"timeout_s": 120}),
    ("bash", {"command": "make", "timeout": "600000"}, {"timeout_s": 600}),
    ("bash", {"command": "make", "timeout": 1}, {"timeout_s": 1}),
    ("bash", {"command": "make", "timeout_s": "200"}, {"timeout_s": 200}),
    ("bash", {"command": "npm run dev", "run_in_background": True}, {"run_in_background": True}),
    ("bash", {"restart": True}, {"command": ":"}),
    ("bash", {"command": "x" * 200_000}, {"command": "x" * 200_000}),
    ("read_file", {"file_path": f"{HOME}/a.py"}, {"offset": 1, "limit": 2_000}),
    ("read_file", {"file_path": "a.py", "offset": 0, "limit": 50}, {"offset": 0, "limit": 50}),
    ("read_file", {"file_path": "~/workspace/a.py"}, {"file_path": f"{HOME}/a.py"}),
    ("read_file", {"file_path": "a.py", "view_range": [10, 20]}, {"offset": 10, "limit": 11}),
    ("read_file", {"file_path": "a.py", "view_range": [10, -1]}, {"offset": 10, "limit": 10_000}),
    (
        "edit_file",
        {"file_path": "a", "old_string": "", "new_string": "x"},
        {"old_string": "", "replace_all": False},
    ),
    ("grep", {"pattern": "x", "output_mode": "content", "-n": True, "-C": 3}, {"context": 3}),
    ("grep", {"pattern": "x", "-A": 2, "-B": 1, "-i": True}, {"after": 2, "before": 1, "ignore_case": True}),
    (
        "grep",
        {"pattern": "x", "head_limit": 20, "type": "ts", "glob": None},
        {"limit": 20, "type": "ts", "glob": None},
    ),
    ("grep", {"pattern": "x", "head_limit": 0}, {"limit": 2_000}),
    (
        "grep",
        {"pattern": "x", "path": HOME, "glob": "*.{ts,tsx}", "multiline": True},
        {"path": HOME, "multiline": True},
    ),
    ("glob", {"pattern": "**/*.py", "path": HOME, "head_limit": 5}, {"limit": 5}),
    ("take_screenshot", {"url": "http://localhost:3000/shop?a=1"}, {"port": 3000, "path": "/shop?a=1"}),
    ("take_screenshot", {"url": "http://127.0.0.1"}, {"port": 80, "path": "/"}),
    ("take_screenshot", {"port": "8080", "path": "/x"}, {"port": 8080, "path": "/x"}),
]
#: Tool, input, and the words that lead to the right one.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("Read", {"file_path": "a"}, "did you mean read_file?"),
    ("str_replace_based_edit_tool", {"command": "view", "path": "a"}, "did you mean edit_file?"),
    ("screenshot", {"port": 1}, "did you mean take_screenshot?"),
    ("read_file", {"path": "a"}, "did you mean `file_path`?"),
    ("edit_file", {"file_path": "a", "old_str": "x", "new_str": "y"}, "did you mean `old_string`?"),
    ("write_file", {"file_path": "a", "file_text": "x"}, "did you mean `content`?"),
    ("bash", {"cmd": "ls"}, "did you mean `command`?"),
    ("bash", {"command": "make", "timeout": 1000, "timeout_s": 1}, "timeout"),
    ("grep", {"pattern": "x", "type": "klingon"}, "there is no type 'klingon'"),
    ("grep", {"pattern": "x", "-i": True, "ignore_case": True}, "are the same"),
    ("read_file", {"file_path": "a", "view_range": [5, 2]}, "`view_range` is [first line, last line]"),
    ("take_screenshot", {"url": "https://example.org/"}, "port"),
    ("bash", {"command": ""}, "command"),
]


@pytest.mark.parametrize(("tool", "given", "meant"), ACCEPTED)
def test_a_harmless_input_is_understood(tool: str, given: dict[str, Any], meant: dict[str, Any]) -> None:
    parsed = parse_input(tool, given)
    assert isinstance(parsed, ToolInput), parsed
    assert {name: getattr(parsed, name) for name in meant} == meant


@pytest.mark.parametrize(("tool", "given", "words"), REFUSED)
def test_another_input_is_refused_with_the_right_name(tool: str, given: dict[str, Any], words: str) -> None:
    outcome = parse_input(tool, given)
    assert isinstance(outcome, CallOutcome)
    assert words in outcome.output
