"""Requests in structured mode: the whole event is one JSON value."""

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.contracts.messages import REQUEST, TRACE, structured_message
from tests.unit.contracts.strategies import json_values

from nightshift.contracts.cloudevents import decode_request
from nightshift.contracts.errors import ContractError, InvalidData, InvalidEnvelope, TooLarge
from nightshift.contracts.limits import NUMBER
from nightshift.contracts.registry import encode


def test_structured_mode_is_read():
    headers, value = structured_message()
    received = decode_request(b"night-7", headers, value)
    assert received.event == REQUEST
    assert received.envelope.traceparent == TRACE


def in_base64(text: bytes) -> dict:
    """The changes that replace `data` by this text in `data_base64`."""
    return {"data": ..., "data_base64": base64.b64encode(text).decode()}


def test_json_data_in_base64_is_read_as_data():
    for changes in ({}, {"datacontenttype": "application/json"}):
        headers, value = structured_message(**in_base64(encode(REQUEST).encode()), **changes)
        assert decode_request(b"night-7", headers, value).event == REQUEST


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (b"not json", InvalidData, "not JSON"),
        (b'{"build_id":"night-7","build_id":"night-7"}', InvalidData, "the same name twice"),
        (b'{"a":' + b"[" * 1000, TooLarge, "nested"),
        (b'{"a":' + b"9" * (NUMBER + 1) + b"}", TooLarge, "number"),
        (b'{"a":1e400}', InvalidData, "a number too large"),
    ],
)
def test_data_in_base64_is_limited_like_any_other(text, error, words):
    headers, value = structured_message(**in_base64(text))
    with pytest.raises(error, match=words):
        decode_request(b"night-7", headers, value)


def test_batch_mode_is_refused_by_name():
    for name in (b"application/cloudevents-batch+json", b"Application/CloudEvents-Batch+json; charset=utf-8"):
        with pytest.raises(InvalidEnvelope, match=r"batch mode .* one event per record") as caught:
            decode_request(b"night-7", [("content-type", name)], b"[]")
        assert caught.value.header == "content-type"


@pytest.mark.parametrize(
    ("changes", "header"),
    [
        ({"type": ...}, "type"),
        ({"id": 5}, "id"),
        ({"subject": None}, "subject"),
        ({"source": "a\ud800"}, "source"),
        ({"specversion": "2.0"}, "specversion"),
        ({"time": "soon"}, "time"),
        ({"data": ...}, "data"),
        ({"data_base64": "e30="}, "data_base64"),
        ({"data": ..., "data_base64": "e30"}, "data_base64"),
        ({"data": ..., "data_base64": "é"}, "data_base64"),
        ({"data": ..., "data_base64": 5}, "data_base64"),
        ({"data": ..., "data_base64": None}, "data_base64"),
        ({**in_base64(b"<a/>"), "datacontenttype": "text/xml"}, "datacontenttype"),
        ({"datacontenttype": "text/xml"}, "datacontenttype"),
        ({"datacontenttype": 5}, "datacontenttype"),
        ({"dataref": "x"}, "dataref"),
        ({"type": "nightshift.build.checkpoint_saved.v1"}, "type"),
    ],
)
def test_structured_errors_name_the_attribute(changes, header):
    headers, value = structured_message(**changes)
    with pytest.raises(InvalidEnvelope) as caught:
        decode_request(b"night-7", headers, value)
    assert caught.value.header == header


@given(
    st.dictionaries(
        st.sampled_from(["id", "type", "source", "subject", "time", "data", "data_base64", "sequence"]),
        json_values,
    )
)
def test_any_structured_value_raises_only_contract_errors(changes):
    headers, value = structured_message()
    document = {**json.loads(value), **changes}
    with contextlib.suppress(ContractError):
        decode_request(b"night-7", headers, json.dumps(document).encode())
