"""The scripted model refuses what the real API refuses about models, parameters and thinking."""

import copy
import re
from datetime import date
from typing import Any

import pytest

from nightshift.devstack.model.answer import message_of
from nightshift.devstack.model.conversation import validate
from nightshift.devstack.model.errors import Invalid
from nightshift.devstack.model.rules import check_parameters
from nightshift.devstack.model.scenario import Turn

USER = {"role": "user", "content": [{"type": "text", "text": "hello"}]}


def body(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "claude-sonnet-5-5", "max_tokens": 4_000, "messages": list(messages) or [USER], **more}


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        (body(model="claude-imaginary"), 404, "model: claude-imaginary"),
        (body(model="claude-opus-4-1"), 404, "model: claude-opus-4-1"),
        (body(max_tokens=128_001), 400, "128001 > 128000, which is the maximum"),
        (body(frobnicate=1), 400, "frobnicate: Extra inputs are not permitted"),
        (body({**USER, "name": "x"}), 400, "messages.0.name: Extra inputs"),
        (
            body({"role": "user", "content": [{"type": "text", "text": "x", "id": 1}]}),
            400,
            "text.id: Extra inputs",
        ),
        (body({"role": "user", "content": [{"type": "text", "text": " \n"}]}), 400, "non-whitespace"),
        (
            body(thinking={"type": "enabled", "budget_tokens": 2_000}),
            400,
            '"thinking.type.enabled" is not supported',
        ),
        (body(thinking={"type": "nonsense"}), 400, "thinking.type"),
        (body(model="claude-opus-5-5", thinking={"type": "disabled"}), 400, "disabled"),
        (
            body(model="claude-haiku-4-5", thinking={"type": "adaptive"}),
            400,
            "adaptive thinking is not supported",
        ),
        (
            body(model="claude-haiku-4-5", thinking={"type": "enabled", "budget_tokens": 9}),
            400,
            "budget_tokens",
        ),
        (
            body(model="claude-haiku-4-5", thinking={"type": "enabled", "budget_tokens": 4_000}),
            400,
            "max_tokens",
        ),
        (body(model="claude-haiku-4-5", output_config={"effort": "low"}), 400, "effort"),
        (body(model="claude-opus-4-6", output_config={"effort": "xhigh"}), 400, "effort"),
    ],
)
def test_a_broken_rule_is_refused_with_its_status(given: Any, status: int, said: str) -> None:
    with pytest.raises(Invalid, match=said) as refused:
        validate(given)
    assert refused.value.status == status


BASH = {"name": "bash", "description": "Run it.", "input_schema": {"type": "object", "properties": {}}}
EPHEMERAL = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


def schema(**more: Any) -> dict[str, Any]:
    return body(tools=[{**BASH, "input_schema": {"type": "object", **more}}])


def marked(mark: Any) -> dict[str, Any]:
    return {"type": "text", "text": "x", "cache_control": mark}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (body(system=[{"type": "text", "text": ""}]), "system: text content blocks"),
        (body(system=[{"type": "text", "text": "x", "id": 1}]), "system.0.id: Extra inputs"),
        (body(system=[{"type": "image"}]), "system.0.type: Input should be 'text'"),
        (body(system={"text": "x"}), "system: Input should be a valid list"),
        (body(tools={"bash": BASH}), "tools: Input should be a valid list"),
        (body(tools=[{**BASH, "timeout": 1}]), "tools.0.custom.timeout: Extra inputs"),
        (body(tools=[{**BASH, "name": "a b"}]), "tools.0.custom.name: String should match"),
        (body(tools=[{**BASH, "name": "x" * 129}]), "tools.0.custom.name: String should match"),
        (body(tools=[{**BASH, "type": "bash_99"}]), "does not match any of the expected tags"),
        (body(tools=[BASH, BASH]), "Tool names must be unique"),
        (body(tools=[{"name": "bash"}]), "input_schema: Field required"),
        (body(tools=[{**BASH, "input_schema": {"type": "string"}}]), "type: Input should be 'object'"),
        (schema(anyOf=[{"type": "object"}]), "does not support oneOf, allOf, or anyOf"),
        (schema(properties={"a": {"type": "text"}}), "JSON schema is invalid"),
        (schema(properties={"a b": {}}), "Property keys should match"),
        (body(tools=[{**BASH, "cache_control": {"type": "persistent"}}]), "should be 'ephemeral'"),
        (body({"role": "user", "content": [marked({**EPHEMERAL, "ttl": "2h"})]}), "should be '5m' or '1h'"),
        (body({"role": "user", "content": [marked({**EPHEMERAL, "scope": "x"})]}), "scope: Extra inputs"),
        (
            body({"role": "user", "content": [marked(HOUR)]}, system=[marked(EPHEMERAL)]),
            "messages.0.content.0.cache_control.ttl: a ttl='1h' cache_control block must not come after",
        ),
        (
            body({"role": "user", "content": [marked(EPHEMERAL)] * 5}),
            "A maximum of 4 blocks with cache_control may be provided. Found 5.",
        ),
        (body(tool_choice={"type": "auto"}), "may only be specified while providing tools"),
        (body(tools=[BASH], tool_choice={"type": "some"}), "tool_choice: Input should be"),
        (body(tools=[BASH], tool_choice={"type": "tool", "name": "grep"}), "not found in provided tools"),
        (
            body(tools=[BASH], tool_choice={"type": "any"}, thinking={"type": "adaptive"}),
            "may not be enabled when tool_choice forces tool use",
        ),
        (body(thinking={"type": "adaptive", "budget_tokens": 2_000}), "budget_tokens: Extra inputs"),
        (body(output_config={"efort": "low"}), "output_config.efort: Extra inputs"),
    ],
)
def test_a_mistake_in_the_system_prompt_or_the_tools_is_refused(given: Any, said: str) -> None:
    with pytest.raises(Invalid, match=re.escape(said)):
        validate(given)


def test_a_call_with_a_name_or_id_of_other_characters_is_refused() -> None:
    for fields, said in (({"id": "a b"}, "tool_use.id"), ({"name": "a.b"}, "tool_use.name")):
        use = {"type": "tool_use", "id": "t", "name": "bash", "input": {}, **fields}
        with pytest.raises(Invalid, match=said):
            validate(body(USER, {"role": "assistant", "content": [use]}, USER))


@pytest.mark.parametrize(
    "given",
    [
        body({"role": "user", "content": [marked(EPHEMERAL)]}, system=[marked(HOUR)], tools=[BASH]),
        body({"role": "user", "content": [marked(HOUR)]}, system=[marked(HOUR)]),
        body(tools=[{**BASH, "strict": True, "type": "custom"}], tool_choice={"type": "auto"}),
        body(thinking={"type": "adaptive"}, output_config={"effort": "xhigh"}),
        body(model="claude-haiku-4-5", thinking={"type": "enabled", "budget_tokens": 2_000}),
        body(model="claude-sonnet-4-6", thinking={"type": "adaptive"}),
    ],
)
def test_what_a_model_takes_is_accepted(given: Any) -> None:
    assert validate(given).body is given


def test_a_model_is_refused_from_the_day_of_its_retirement() -> None:
    check_parameters(body(model="claude-sonnet-4-5"), date(2026, 11, 29))
    with pytest.raises(Invalid, match="claude-sonnet-4-5"):
        check_parameters(body(model="claude-sonnet-4-5"), date(2026, 11, 30))


def answered() -> dict[str, Any]:
    """A conversation whose second message holds thinking that the scripted model signed."""
    first = body(system=[{"type": "text", "text": "Build.", "cache_control": {"type": "ephemeral"}}])
    answer = message_of(Turn(think="Hm.", say="Hello."), validate(first))
    return {**first, "messages": [USER, {"role": "assistant", "content": answer["content"]}, USER]}


def test_signed_thinking_comes_back_with_moved_cache_marks() -> None:
    given = copy.deepcopy(answered())
    given["messages"][0]["content"][0]["cache_control"] = {"type": "ephemeral"}
    del given["system"][0]["cache_control"]
    assert validate(given).assistant_turns == 1


@pytest.mark.parametrize("changed", ["system", "tools", "message"])
def test_thinking_is_bound_to_all_that_precedes_it(changed: str) -> None:
    given = copy.deepcopy(answered())
    if changed == "message":
        given["messages"][0]["content"].append({"type": "text", "text": "[Turns left: 3.]"})
    elif changed == "system":
        given["system"][0]["text"] = "Build!"
    else:
        given["tools"] = [{"name": "bash", "input_schema": {"type": "object"}}]
    with pytest.raises(Invalid, match="bound to a different conversation"):
        validate(given)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            [{"type": "thinking", "thinking": "cut"}, {"type": "text", "text": "x"}],
            "signature: Field required",
        ),
        ([{"type": "thinking", "thinking": "x", "signature": "y"}], "final block"),
        ([{"type": "tool_use", "id": "t", "name": "bash", "input": None}], "valid dictionary"),
    ],
)
def test_an_answer_that_the_api_does_not_take_back_is_refused(content: Any, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        validate(body(USER, {"role": "assistant", "content": content}, USER))
