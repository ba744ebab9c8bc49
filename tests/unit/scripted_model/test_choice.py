"""Which turn answers, from what the request holds alone."""

from typing import Any

import pytest

from nightshift.devstack.model.choice import Chooser, NoAnswer
from nightshift.devstack.model.conversation import Conversation, validate
from nightshift.devstack.model.scenario import parse_scenario


def _chooser(turns: str) -> Chooser:
    return Chooser(parse_scenario(f"name: t\nturns:\n{turns}"))


def _conversation(
    *results: str, first: str = "build b-1 please", is_error: bool = False, system: str = ""
) -> Conversation:
    """One tool call answered per result."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": first}]
    for index, result in enumerate(results):
        call = {"type": "tool_use", "id": f"c{index}", "name": "bash", "input": {"command": f"step {index}"}}
        answer = {"type": "tool_result", "tool_use_id": f"c{index}", "content": result, "is_error": is_error}
        messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [answer]}]
    return validate({"model": "scripted-1", "max_tokens": 9, "messages": messages, "system": system})


def _say(chooser: Chooser, conversation: Conversation) -> str | None:
    return chooser.fill(chooser.choose(conversation).turn, conversation).say


def test_the_number_of_assistant_turns_is_the_position() -> None:
    chooser = _chooser("- say: one\n- say: two\n")
    assert _say(chooser, _conversation()) == "one"
    assert _say(chooser, _conversation("x")) == "two"
    assert _say(chooser, _conversation()) == "one"  # a retry, or another build


@pytest.mark.parametrize(
    ("match", "conversation"),
    [
        ("last_result_contains: 1 failed", _conversation("x: 1 failed")),
        ("last_result_lacks: failed", _conversation("4 passed")),
        ("last_result_matches: '^\\d+ passed$'", _conversation("log\n4 passed")),
        ("last_result_is_error: true", _conversation("boom", is_error=True)),
        ("last_result_is_error: false", _conversation("fine")),
        ("conversation_contains: b-1", _conversation("fine")),
        ("last_user_contains: fine", _conversation("fine")),
        ("last_assistant_contains: step 0", _conversation("fine")),
        ("system_contains: night", _conversation("fine", system="at night")),
        ("turns_at_least: 1", _conversation("fine")),
        ("turns_at_most: 1", _conversation("fine")),
    ],
)
def test_a_match_holds(match: str, conversation: Conversation) -> None:
    assert _say(_chooser(f"- {{at: any, say: yes!, match: {{{match}}}}}\n"), conversation) == "yes!"


@pytest.mark.parametrize(
    ("match", "conversation"),
    [
        ("last_result_contains: 1 failed", _conversation("4 passed")),
        ("last_result_contains: old", _conversation("old", "new")),
        ("last_result_lacks: failed", _conversation("1 failed")),
        ("last_result_matches: '^\\d+ passed$'", _conversation("4 passed, 1 failed")),
        ("last_result_is_error: true", _conversation("fine")),
        ("last_result_is_error: false", _conversation("boom", is_error=True)),
        ("conversation_contains: b-2", _conversation("fine")),
        ("last_user_contains: please", _conversation("fine")),
        ("last_assistant_contains: step 0", _conversation("fine", "fine")),
        ("system_contains: night", _conversation("fine", system="at day")),
        ("turns_at_least: 2", _conversation("fine")),
        ("turns_at_most: 0", _conversation("fine")),
    ],
)
def test_a_match_does_not_hold_and_says_what_it_saw(match: str, conversation: Conversation) -> None:
    field = match.partition(":")[0]
    with pytest.raises(NoAnswer, match=rf"turn 1 'here' \(line 3\) wants {field}"):
        _say(_chooser(f"- {{name: here, at: any, say: yes!, match: {{{match}}}}}\n"), conversation)


def test_the_first_turn_that_fits_wins() -> None:
    chooser = _chooser(
        "- {at: any, say: fix, match: {last_result_contains: failed}}\n- say: test\n- {at: 1, say: done}\n"
    )
    assert _say(chooser, _conversation()) == "test"
    assert _say(chooser, _conversation("1 failed")) == "fix"
    assert _say(chooser, _conversation("passed")) == "done"


def test_a_failure_happens_once_for_each_conversation() -> None:
    chooser = _chooser("- status: 529\n- say: at last\n")
    for conversation in (_conversation(first="one"), _conversation(first="two")):
        assert chooser.choose(conversation).turn.status == 529
        assert _say(chooser, conversation) == "at last"


def test_a_failure_can_happen_several_times_or_always() -> None:
    chooser = _chooser("- {status: 500, times: 2}\n- say: at last\n")
    assert [chooser.choose(_conversation()).turn.status for _ in range(3)] == [500, 500, None]
    always = _chooser("- {status: 500, once: false}\n")
    assert [always.choose(_conversation()).turn.status for _ in range(3)] == [500] * 3


def test_no_answer_names_the_position_and_what_was_said_last() -> None:
    with pytest.raises(NoAnswer, match=r"after 2 assistant turns: it has no turn for this position.*'beta'"):
        _say(_chooser("- say: x\n"), _conversation("alpha", "beta"))


def test_placeholders_come_from_the_newest_find() -> None:
    chooser = _chooser(
        "- say: a\n- say: 'page {{ port }} of {{build}}, turn {{turn}}, style={{margin}}'\n"
        "  calls: [{tool: bash, input: {list: ['curl :{{port}}', 3]}, invalid: true}]\n"
        "  capture: {port: 'port (\\d+)', build: 'b-\\d'}\n"
    )
    conversation = _conversation("port 1 or port 8080")
    turn = chooser.fill(chooser.choose(conversation).turn, conversation)
    assert turn.say == "page 8080 of b-1, turn 1, style={{margin}}"
    assert turn.calls[0].input == {"list": ["curl :8080", 3]}


def test_a_placeholder_without_a_find_is_told() -> None:
    with pytest.raises(NoAnswer, match=r"placeholder \{\{port\}\}"):
        _say(_chooser("- {say: 'at {{port}}', capture: {port: 'port (.+)'}}\n"), _conversation())


def _judging(*results: str, criteria: int = 2) -> Conversation:
    listed = "\n".join(f"{number}. It does thing {number}." for number in range(1, criteria + 1))
    body = _conversation(*results, first=f"The idea:\n\n1. app\n\nThe criteria:\n{listed}").body
    tools = [{"name": "report_verdicts", "input_schema": {"type": "object"}}]
    return validate({**body, "tools": tools})


def test_a_scenario_without_a_judge_finds_every_criterion_met() -> None:
    (call,) = _chooser("- say: one\n").choose(_judging(criteria=3)).turn.calls
    verdicts = call.input["verdicts"]
    assert [(one["criterion"], one["met"]) for one in verdicts] == [(1, True), (2, True), (3, True)]


def test_the_judge_has_turns_and_positions_of_its_own() -> None:
    chooser = _chooser("- say: one\n- {say: looks, role: judge}\n- say: two\n- {say: judges, role: judge}\n")
    assert [_say(chooser, _conversation()), _say(chooser, _conversation("x"))] == ["one", "two"]
    assert [_say(chooser, _judging()), _say(chooser, _judging("x"))] == ["looks", "judges"]
