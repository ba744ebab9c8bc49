"""The rules of the Messages API that an agent loop can break."""

from typing import Any

import pytest

from nightshift.devstack.model.conversation import validate
from nightshift.devstack.model.errors import Invalid

USER = {"role": "user", "content": "hello"}


def _body(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "scripted-1", "max_tokens": 100, "messages": list(messages), **more}


def _asks(*ids: str) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": [
            {"type": "tool_use", "id": one, "name": "bash", "input": {"command": "ls"}} for one in ids
        ],
    }


def _results(*ids: str) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": one, "content": "ok"} for one in ids],
    }


def test_a_loop_of_tools_is_accepted() -> None:
    conversation = validate(_body(USER, _asks("a", "b"), _results("b", "a"), _asks("c"), _results("c")))
    assert conversation.assistant_turns == 2
    assert conversation.last_result == "ok"


def test_text_may_follow_the_results() -> None:
    results = _results("a")
    results["content"].append({"type": "text", "text": "hurry"})
    assert validate(_body(USER, _asks("a"), results)).last_user == "ok\nhurry"


def test_neighbouring_user_messages_are_read_as_one() -> None:
    assert validate(_body(USER, _asks("a"), _results("a"), USER)).last_user == "ok\nhello"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "JSON object"),
        ({"max_tokens": 1, "messages": [USER]}, "model: Field required"),
        ({"model": "scripted-1", "messages": [USER]}, "max_tokens: Field required"),
        ({"model": "scripted-1", "max_tokens": 0, "messages": [USER]}, "max_tokens"),
        ({"model": "scripted-1", "max_tokens": True, "messages": [USER]}, "max_tokens"),
        (_body(), "at least one message"),
        (_body({"role": "system", "content": "x"}), "messages.0.role"),
        (_body({"role": "assistant", "content": "x"}), "first message must be from the user"),
        (_body({"role": "user", "content": ""}), "must not be empty"),
        (_body({"role": "user", "content": []}), "must not be empty"),
        (_body({"role": "user", "content": [{"type": "text", "text": ""}]}), "must be non-empty"),
        (_body({"role": "user", "content": [{"text": "x"}]}), "type: Field required"),
        (_body(USER, {"role": "assistant", "content": "x"}), "must end with a user message"),
        (_body(USER, _asks("a", "b"), _results("a")), "without `tool_result` blocks immediately after: b"),
        (_body(USER, _asks("a"), USER), "without `tool_result` blocks immediately after: a"),
        (_body(USER, _asks("a"), _results("a", "a")), "must have a single result"),
        (_body(USER, _asks("a"), _results("x")), "unexpected `tool_use_id`"),
        (_body(USER, _asks("a"), _results("a"), _asks("b"), _results("b", "a")), "unexpected `tool_use_id`"),
        (_body(_results("a")), "unexpected `tool_use_id`"),
        (_body(USER, _asks("a", "a"), _results("a")), "ids must be unique"),
    ],
)
def test_a_broken_rule_is_refused_with_its_place(body: Any, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        validate(body)


def test_results_come_before_text() -> None:
    results = _results("a")
    results["content"].insert(0, {"type": "text", "text": "first"})
    with pytest.raises(Invalid, match="must come before all other content"):
        validate(_body(USER, _asks("a"), results))


def test_four_cache_breakpoints_are_allowed_and_five_are_not() -> None:
    def block(n: int) -> dict[str, Any]:
        return {"type": "text", "text": str(n), "cache_control": {"type": "ephemeral"}}

    assert validate(_body(USER, system=[block(n) for n in range(4)]))
    with pytest.raises(Invalid, match="Found 5"):
        validate(_body(USER, system=[block(n) for n in range(5)]))


def test_a_key_of_that_name_in_a_tools_input_is_no_breakpoint() -> None:
    asks = _asks("a")
    asks["content"][0]["input"] = {f"{n}": {"cache_control": {}} for n in range(9)}
    assert validate(_body(USER, asks, _results("a")))


def test_the_digest_depends_on_the_conversation_only() -> None:
    one = validate(_body(USER))
    assert one.digest == validate(_body(USER, stream=True, temperature=0)).digest
    assert one.digest != validate(_body({"role": "user", "content": "hello!"})).digest
