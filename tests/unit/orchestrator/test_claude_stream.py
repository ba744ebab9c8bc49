"""The assembly of a stream: its blocks, its usage, and streams that are cut or wrong."""

import pytest

from nightshift.contracts.events.build import Usage
from nightshift.orchestrator.adapters.claude_stream import Assembly, Malformed

START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "model": "claude-x",
        "usage": {
            "input_tokens": 7,
            "output_tokens": 1,
            "cache_read_input_tokens": 30,
            "cache_creation_input_tokens": 12,
            "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 8},
        },
    },
}
END = [
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use"},
        "usage": {"output_tokens": 50, "input_tokens": None},
    },
    {"type": "message_stop"},
]


def assembled(*events: dict) -> Assembly:
    assembly = Assembly()
    for event in events:
        assembly.take(event)
    return assembly


def block(index: int, content: dict, *deltas: dict) -> list[dict]:
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def test_blocks_of_every_kind_and_the_cache_by_its_lifetime():
    assembly = assembled(
        START,
        {"type": "ping"},
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "a"},
            {"type": "signature_delta", "signature": "s"},
        ),
        *block(1, {"type": "text", "text": "", "citations": None}, {"type": "text_delta", "text": "hi"}),
        *block(2, {"type": "hologram", "depth": 3}, {"type": "hologram_delta", "light": 1}),
        *block(
            3,
            {"type": "tool_use", "id": "t", "name": "bash", "input": {}},
            {"type": "input_json_delta", "partial_json": ""},
            {"type": "input_json_delta", "partial_json": '{"b": 1, '},
            {"type": "input_json_delta", "partial_json": '"a": 2}'},
        ),
        {"type": "an_event_of_next_year"},
        *END,
    )
    assert assembly.complete
    assert assembly.content == (
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "text", "text": "hi", "citations": None},
        {"type": "hologram", "depth": 3},
        {"type": "tool_use", "id": "t", "name": "bash", "input": {"a": 2, "b": 1}},
    )
    assert list(assembly.content[3]["input"]) == ["a", "b"]
    assert assembly.usage == Usage(
        input_tokens=7,
        output_tokens=50,
        cache_read_input_tokens=30,
        cache_write_5m_input_tokens=4,
        cache_write_1h_input_tokens=8,
    )


def test_a_cut_tool_input_is_read_as_the_sdk_reads_it():
    assembly = assembled(
        START,
        *block(0, {"type": "tool_use", "id": "t", "name": "x", "input": {}}),
        *block(
            1,
            {"type": "tool_use", "id": "u", "name": "x", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"a": 1, "b": "un'},
        ),
    )
    assert [one["input"] for one in assembly.content] == [{}, {"a": 1}]
    assert assembly.invalid_inputs == {1: '{"a": 1, "b": "un'}
    assert not assembly.complete


def test_output_that_was_seen_counts_before_the_end_tells_it():
    assembly = assembled(
        START, *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "x" * 300})
    )
    assert assembly.usage.output_tokens == 100
    assert Assembly().usage is None


@pytest.mark.parametrize(
    "event",
    [
        {"no": "type"},
        [],
        {"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "message_start", "message": {}},
    ],
)
def test_what_the_protocol_does_not_have_is_malformed(event):
    with pytest.raises(Malformed):
        assembled(event)


def call(index: int = 0, *, given: str = "{}", **fields) -> list[dict]:
    told = {"type": "tool_use", "id": f"t{index}", "name": "bash", "input": {}, **fields}
    return block(index, told, {"type": "input_json_delta", "partial_json": given})


@pytest.mark.parametrize(
    "calls",
    [
        call(name="x" * 300),
        call(name=""),
        call(name="rm -rf /"),
        call(name=None),
        call(id="t" * 300),
        call(id=""),
        call(id=None),
    ],
)
def test_a_call_that_the_api_would_not_take_back_is_malformed(calls):
    with pytest.raises(Malformed):
        assembled(START, *calls, *END)


@pytest.mark.parametrize(("given", "read"), [('["ls"]', ["ls"]), ("{]", {}), ("null", None)])
def test_an_input_that_is_no_object_is_invalid(given, read):
    assembly = assembled(START, *call(given=given), *END)
    assert assembly.content[0]["input"] == read
    assert assembly.invalid_inputs == {0: given}


def test_a_message_without_its_last_event_is_complete():
    said = block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hi"})
    assert assembled(START, *said, END[0]).complete
    assert not assembled(START, *said).complete
    assert not assembled(START, *said[:-1], END[0]).complete


def test_what_follows_the_end_is_ignored():
    assembly = assembled(START, *END, *block(0, {"type": "text", "text": "more"}), {"no": "type"})
    assert assembly.complete
    assert assembly.content == ()


def test_content_in_the_first_event_is_kept():
    use = {"type": "tool_use", "id": "t", "name": "bash", "input": {"a": 1}}
    start = {
        "type": "message_start",
        "message": {**START["message"], "content": [use], "stop_reason": "tool_use"},
    }
    assembly = assembled(start, {"type": "message_stop"})
    assert (assembly.content, assembly.complete) == ((use,), True)


def test_details_of_a_refusal_are_kept():
    details = {"type": "refusal", "category": "cyber", "explanation": "no"}
    end = {"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": details}, "usage": {}}
    assert assembled(START, end).stop_details == details


@pytest.mark.parametrize("tokens", [-5, 10.5, "many"])
def test_a_bad_count_is_malformed_and_keeps_the_earlier_ones(tokens):
    assembly = assembled(START)
    with pytest.raises(Malformed):
        assembly.take({"type": "message_delta", "delta": {}, "usage": {"output_tokens": tokens}})
    assert assembly.usage is not None
    assert assembly.usage.input_tokens == 7


@pytest.mark.parametrize("reason", ["x" * 200, 7])
def test_a_stop_reason_that_is_no_word_is_malformed(reason):
    with pytest.raises(Malformed):
        assembled(START, {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {}})


def started_with(usage: object) -> dict:
    return {"type": "message_start", "message": {"id": "msg_1", "model": "m", "usage": usage}}


NULLS = {"ephemeral_5m_input_tokens": None, "ephemeral_1h_input_tokens": None}


@pytest.mark.parametrize(
    ("usage", "billed"),
    [
        ({"input_tokens": 9, "cache_creation": NULLS}, Usage(input_tokens=9)),
        ({"input_tokens": 9, "cache_creation": None}, Usage(input_tokens=9)),
        (
            {"cache_creation_input_tokens": 6, "cache_creation": NULLS},
            Usage(cache_write_5m_input_tokens=6),
        ),
        (
            {
                "cache_creation_input_tokens": 6,
                "cache_creation": {**NULLS, "ephemeral_1h_input_tokens": 4},
            },
            Usage(cache_write_5m_input_tokens=2, cache_write_1h_input_tokens=4),
        ),
        (
            {"cache_creation_input_tokens": None, "cache_creation": {"ephemeral_5m_input_tokens": 3}},
            Usage(cache_write_5m_input_tokens=3),
        ),
        (
            dict.fromkeys(["input_tokens", "output_tokens", "cache_read_input_tokens", "service_tier"]),
            Usage(),
        ),
        ({}, Usage()),
        (None, Usage()),
    ],
)
def test_null_in_usage_counts_as_not_stated(usage, billed):
    assembly = assembled(started_with(usage), *END)
    assert assembly.complete
    assert assembly.usage == billed.model_copy(update={"output_tokens": 50})


def test_a_message_without_the_field_usage_is_read():
    start = {"type": "message_start", "message": {"id": "msg_1", "model": "m"}}
    assert assembled(start, *END).usage == Usage(output_tokens=50)


def test_cache_writes_after_the_start_are_billed():
    grown = {"type": "message_delta", "delta": {}, "usage": {"cache_creation_input_tokens": 20}}
    assert assembled(START, grown, *END).usage.cache_write_5m_input_tokens == 12


def test_output_that_the_end_does_not_state_is_counted():
    said = block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "x" * 300})
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": None}}
    assembly = assembled(START, *said, end, {"type": "message_stop"})
    assert assembly.complete
    assert assembly.usage.output_tokens == 100
