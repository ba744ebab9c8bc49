"""What producers may get wrong: each mistake is refused with an error that names the place."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.contracts.messages import REQUEST, REQUIRED_OF_FACTS, fact_message, request_message
from tests.unit.contracts.strategies import events, json_values

from nightshift.contracts.cloudevents import decode_fact, decode_request, encode_request
from nightshift.contracts.envelope import peek
from nightshift.contracts.errors import ContractError, InvalidData, TooLarge
from nightshift.contracts.events.account import AccountBudgetSet, AccountOpened, AccountToppedUp
from nightshift.contracts.events.build import CheckpointSaved
from nightshift.contracts.events.requests import BuildRequested, ToolCallApprovalGiven, ToolCallResultGiven
from nightshift.contracts.registry import encode


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (b'{"build_id":"night-7","build_id":"night-7"}', InvalidData, "build_id: the same name twice"),
        (b'{"a":1e400}', InvalidData, "a: a number too large"),
        (b'{"a":[0,{"b":-1e999}]}', InvalidData, "a.1.b: a number too large"),
        (b'{"a":NaN}', InvalidData, "NaN"),
        (b'{"a":"\xff"}', InvalidData, "UTF-8"),
        (b"not json", InvalidData, "not JSON"),
        (b"", InvalidData, "not JSON"),
        (b"[]", InvalidData, "object"),
        (b'{"a":"' + b"x" * 900_000, TooLarge, "the value has 900006 bytes"),
        (b'{"a":' + b"[" * 100_000, TooLarge, "deep"),
        (b'{"a":' + b'{"b":' * 100_000, TooLarge, "deep"),
        (b'{"' + b"n" * 300 + b'" : 1}', TooLarge, "name"),
        (b'{"a":' + b"9" * 5000 + b"}", TooLarge, "number"),
        (b'{"a":"\\"' + b'\\"' * 400_000, InvalidData, "a string without an end"),
    ],
)
def test_a_malformed_request_is_refused_with_its_reason(value, error, words):
    message = request_message()
    with pytest.raises(error, match=words):
        decode_request(message.key, message.headers, value)


def test_keys_and_headers_are_limited_too():
    message = request_message()
    with pytest.raises(TooLarge, match="key"):
        decode_request(b"k" * 129, message.headers, message.value)
    with pytest.raises(TooLarge, match="x-more"):
        decode_request(message.key, [*message.headers, ("x-more", b"v" * 5000)], message.value)


def test_a_value_at_the_limit_is_read():
    message = request_message()
    padded = message.value.ljust(900_000)
    assert decode_request(message.key, message.headers, padded).event == REQUEST
    with pytest.raises(TooLarge, match="the value has 900001 bytes"):
        decode_request(message.key, message.headers, padded + b" ")


def test_the_limit_applies_to_the_size_in_ascii():
    criteria = ["日" * 99_000] * 3
    data = json.dumps({**json.loads(encode(REQUEST)), "criteria": criteria}, ensure_ascii=False).encode()
    message = request_message()
    assert len(data) < 900_000
    with pytest.raises(TooLarge, match="in ASCII"):
        decode_request(message.key, message.headers, data)


def test_an_unknown_field_is_named():
    message = request_message()
    data = {**json.loads(message.value), "idea": "x"}
    with pytest.raises(InvalidData) as caught:
        decode_request(message.key, message.headers, json.dumps(data).encode())
    assert caught.value.field == "idea"


@pytest.mark.parametrize(
    ("request_", "field", "value"),
    [
        (request_, field, value)
        for request_, field, values_ in (
            (
                AccountToppedUp(account_id="ada", amount_microusd=5),
                "amount_microusd",
                ("300", " 3 ", "1_000", True),
            ),
            (
                AccountOpened(account_id="ada", period_budget_microusd=5),
                "period_budget_microusd",
                ("0", True, False),
            ),
            (AccountBudgetSet(account_id="ada", period_budget_microusd=5), "period_days", ("7", True)),
            (
                ToolCallResultGiven(build_id="b", call_id="b/1/0", output="x"),
                "is_error",
                ("true", "0", 0, 1),
            ),
            (
                ToolCallApprovalGiven(build_id="b", call_id="b/1/0", approved=True),
                "approved",
                ("true", "0", 0, 1),
            ),
            (
                BuildRequested(build_id="b", project_id="p", account_id="a", idea_brief="x"),
                "deadline",
                # Seconds or milliseconds? And what is beyond the calendar in UTC is no time at all.
                (2147483648, "2147483648", 1.5, True, "2026-11-26", "0001-01-01T00:00:00+14:00"),
            ),
        )
        for value in values_
    ],
)
def test_values_are_never_coerced_to_another_type(request_, field, value):
    message = encode_request(request_, id="1", source="/t")
    data = {**json.loads(message.value), field: value}
    with pytest.raises(InvalidData):
        decode_request(message.key, message.headers, json.dumps(data).encode())


headers_of_requests = st.sampled_from(
    [*REQUIRED_OF_FACTS, "ce_partitionkey", "ce_dataref", "traceparent", "x"]
)
texts = st.binary(max_size=40) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(
    str.encode
)
values = st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode())


@given(st.dictionaries(headers_of_requests, texts | st.none(), max_size=4), values | st.none(), st.booleans())
def test_any_message_raises_only_contract_errors(changes, value, in_structure):
    """A poison message is refused, not a crash: anything else would look like a fault of ours."""
    _, fact = fact_message(CheckpointSaved(turn=3))
    for message, decode in ((request_message(), decode_request), (fact, decode_fact)):
        headers = {**dict(message.headers), **changes}
        if in_structure:
            headers["content-type"] = b"application/cloudevents+json"
        with contextlib.suppress(ContractError):
            decode(message.key, headers.items(), value)
        with contextlib.suppress(ContractError):
            decode(message.key, headers.items(), message.value)
        peek(headers.items())


@given(events)
def test_broken_json_is_refused(event):
    message = request_message()
    value = encode(event).encode()
    for broken in (value[:-1], value[1:], value[: len(value) // 2], value.replace(b'"', b"'")):
        with pytest.raises(ContractError):
            decode_request(message.key, message.headers, broken)
