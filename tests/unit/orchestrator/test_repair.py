"""What the API would not take back is repaired before it is recorded, and the event says so."""

import json

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.orchestrator.build_scenario import answer, begun, requested, text, tool_use

from nightshift.contracts.events.build import BuildFailed, ModelCallFailed, ModelCallResponded
from nightshift.devstack.model.conversation import validate
from nightshift.orchestrator.domain import prompt
from nightshift.orchestrator.domain.commands import CallFailed
from nightshift.orchestrator.domain.repair import repair

SIGNED = {"type": "thinking", "thinking": "", "signature": "s"}
UNSIGNED = {"type": "thinking", "thinking": "Let me", "signature": ""}


def test_a_good_answer_is_recorded_as_it_came():
    content = (SIGNED, text("Hm."), {"type": "redacted_thinking", "data": "x"}, tool_use())
    assert repair(content, {}, ()) == (content, ())


def test_a_thinking_block_cut_before_its_signature_is_left_out():
    scenario = begun()
    scenario.thinks(UNSIGNED, stop_reason="max_tokens")
    responded = scenario.last(ModelCallResponded)
    assert (responded.content, responded.repaired) == ((), ("unsigned_thinking",))
    scenario.step()
    body = json.loads(prompt.request_bytes(scenario.state, scenario.policy))
    assert "thinking" not in json.dumps(body["messages"])
    validate(body)


def test_thinking_after_thinking_that_is_left_out_is_left_out_too():
    content, repaired = repair((UNSIGNED, text("a"), SIGNED, tool_use()), {}, ())
    assert (content, repaired) == ((text("a"), tool_use()), ("unsigned_thinking",))


def test_thinking_after_a_block_that_was_changed_is_left_out():
    """Its signature is bound to every block before it, so the API would refuse it for good."""
    first = {**SIGNED, "signature": "first"}
    assert repair((first, text(" "), SIGNED, tool_use()), {}, ()) == (
        (first, tool_use()),
        ("blank_text", "unbound_thinking"),
    )
    content, repaired = repair((first, {**tool_use(), "input": None}, SIGNED, tool_use(id="u")), {}, ())
    assert [block["type"] for block in content] == ["thinking", "tool_use", "tool_use"]
    assert repaired == ("null_input", "unbound_thinking")


def test_an_answer_never_ends_in_thinking():
    assert repair((text("a"), SIGNED, text(" ")), {}, ()) == ((text("a"),), ("blank_text", "final_thinking"))


def test_an_input_that_is_null_becomes_an_object():
    content, repaired = repair(({**tool_use(), "input": None},), {}, ())
    assert (content[0]["input"], repaired) == ({}, ("null_input",))


def test_a_part_of_an_input_never_runs():
    content, repaired = repair((tool_use(given={"command": "rm"}),), {0: '{"command": "rm", "x'}, ())
    assert content[0]["input"] == {"INVALID_JSON": '{"command": "rm", "x'}
    assert repaired == ("invalid_input",)


def test_a_repeated_id_is_renamed_within_an_answer_and_across_turns():
    scenario = begun()
    scenario.thinks(tool_use(id="t"), tool_use("glob", {"pattern": "*"}, id="t"))
    scenario.results()
    events = scenario.thinks(tool_use(given={"command": "ls"}, id="t"))
    assert [event.tool_use_id for event in requested(events)] == ["t-3"]
    assert scenario.last(ModelCallResponded).repaired == ("repeated_id",)
    scenario.results()
    scenario.step()
    validate(json.loads(prompt.request_bytes(scenario.state, scenario.policy)))


BLOCKS = st.one_of(
    st.sampled_from(
        [SIGNED, UNSIGNED, text(), text(""), text(" \n"), {"type": "redacted_thinking", "data": ""}]
    ),
    st.builds(
        lambda given, number: {**tool_use(id=f"t{number}"), "input": given},
        st.one_of(st.none(), st.just({}), st.just(["ls"])),
        st.integers(0, 3),
    ),
)


@given(st.lists(BLOCKS, max_size=8).map(tuple), st.sets(st.sampled_from(["t0", "t1", "t2", "t1-2"])))
def test_a_repaired_answer_needs_no_repair(content, used):
    blocks, _ = repair(content, {}, used)
    assert repair(blocks, {}, used) == (blocks, ())


def test_the_end_of_a_refused_build_says_what_the_provider_said():
    scenario = begun()
    scenario.step()
    refusal = answer(stop_reason="refusal")
    details = {"type": "refusal", "category": "cyber", "explanation": "This could do harm."}
    scenario.do(type(refusal)(**{**_fields(refusal), "stop_details": details}))
    assert scenario.last(ModelCallResponded).stop_details == details
    assert scenario.last(BuildFailed).detail == "the model refused to go on: cyber: This could do harm."


def test_a_prompt_that_is_too_long_is_a_failure_of_its_own_kind():
    scenario = begun()
    scenario.step()
    scenario.do(CallFailed("too_long", "prompt is too long: 3333404 tokens > 200000 maximum", status=400))
    assert scenario.last(ModelCallFailed).kind == "too_long"


def _fields(one) -> dict:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}
