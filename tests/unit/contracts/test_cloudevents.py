import json
from uuid import UUID, uuid4

import pytest
from cloudevents.core.bindings import kafka as peer
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from tests.unit.contracts.messages import (
    AT,
    REQUEST,
    REQUIRED_OF_FACTS,
    REQUIRED_OF_REQUESTS,
    TRACE,
    fact_message,
    request_message,
    with_header,
)
from tests.unit.contracts.strategies import events, times

from nightshift.contracts import cloudevents
from nightshift.contracts.cloudevents import decode_fact, decode_request, encode_fact, encode_request
from nightshift.contracts.envelope import Peek, peek
from nightshift.contracts.errors import InvalidData, InvalidEnvelope, UnknownType, UnknownVersion
from nightshift.contracts.events.build import CheckpointSaved, ToolCallRequested
from nightshift.contracts.events.requests import ToolCallResultGiven
from nightshift.contracts.model import Owner
from nightshift.contracts.registry import encode, subject_of, wire_name


@given(events, times)
def test_every_event_survives_the_wire(event, time):
    if event.owner is Owner.OUTSIDE:
        message = encode_request(event, id="r-1", source="/acme", time=time)
        received = decode_request(message.key, message.headers, message.value)
        assert received.envelope.time == time
    else:
        envelope, message = fact_message(event, subject=_subject(event))
        received = decode_fact(message.key, message.headers, message.value)
        assert received.envelope == envelope
        assert received.envelope.actor == "orchestrator/höst 1"
    assert received.event == event
    assert message.key.decode() == received.envelope.subject


def _subject(event):
    call_id = getattr(event, "call_id", None)
    return subject_of(event) or (call_id.partition("/")[0] if call_id else "night-7")


def test_a_fact_has_these_headers():
    _, message = fact_message(CheckpointSaved(turn=3), flow_traceparent=TRACE, traceparent=TRACE[:-1] + "0")
    headers = dict(message.headers)
    UUID(headers.pop("ce_id").decode())
    UUID(headers.pop("ce_causationid").decode())
    assert headers == {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_type": b"nightshift.build.checkpoint_saved.v1",
        "ce_source": b"/nightshift/orchestrator/h%C3%B6st%201",
        "ce_subject": b"night-7",
        "ce_time": b"2026-11-22T03:14:15.926535Z",
        "ce_dataschema": b"https://nightshift.dev/schemas/nightshift.build.checkpoint_saved.v1.json",
        "ce_sequence": b"0000000000000000007",
        "ce_correlationid": b"night-7",
        "ce_traceparent": TRACE.encode(),
        "traceparent": TRACE[:-1].encode() + b"0",
    }
    assert message.value == b'{"turn":3}'


def test_peek_reads_the_headers_alone():
    _, message = fact_message(CheckpointSaved(turn=3))
    assert peek(message.headers) == Peek("nightshift.build.checkpoint_saved.v1", 7, "night-7")
    assert peek([("ce_type", b"\xff"), ("ce_sequence", b"x")]) == Peek("\ufffd", None, None)
    assert peek([("ce_sequence", "²".encode() * 9 + b"1")]).sequence is None


def test_the_cloudevents_package_reads_what_we_write():
    for message, event in (
        (request_message(), REQUEST),
        (fact_message(CheckpointSaved(turn=3))[1], CheckpointSaved(turn=3)),
    ):
        theirs = peer.from_binary_event(peer.KafkaMessage(dict(message.headers), message.key, message.value))
        assert theirs.get_type() == wire_name(event.type, event.version)
        assert theirs.get_specversion() == "1.0"
        assert theirs.get_subject() == "night-7"
        assert theirs.get_time() == AT
        assert theirs.get_datacontenttype() == "application/json"
        assert theirs.get_extension("partitionkey") == "night-7"
        assert theirs.get_data() == json.loads(encode(event))


def _theirs(**more):
    attributes = {
        "id": "r-1",
        "type": "nightshift.requests.build_requested.v1",
        "source": "/acme/web",
        "specversion": "1.0",
        "subject": "night-7",
        "time": AT,
        "datacontenttype": "application/json",
        "partitionkey": "night-7",
    }
    return CloudEvent({**attributes, **more}, json.loads(encode(REQUEST)))


@pytest.mark.parametrize("write", [peer.to_binary_event, peer.to_structured_event])
def test_we_read_what_the_cloudevents_package_writes(write):
    message = write(_theirs())
    key = message.key.encode() if isinstance(message.key, str) else message.key
    received = decode_request(key, message.headers.items(), message.value)
    assert received.event == REQUEST
    ours = request_message()
    assert received.envelope == decode_request(ours.key, ours.headers, ours.value).envelope


def test_a_fact_written_by_the_cloudevents_package_is_read():
    envelope, message = fact_message(CheckpointSaved(turn=3))
    again = peer.to_binary_event(
        peer.from_binary_event(peer.KafkaMessage(dict(message.headers), message.key, message.value))
    )
    received = decode_fact(message.key, again.headers.items(), again.value)
    assert received.envelope == envelope


@pytest.mark.parametrize("name", ["application/JSON; charset=utf-8", "Application/json"])
def test_the_content_type_is_compared_without_case(name):
    message = request_message()
    headers = with_header(message, "content-type", name.encode())
    assert decode_request(message.key, headers, message.value).event == REQUEST
    headers = [("Content-Type" if header == "content-type" else header, value) for header, value in headers]
    assert decode_request(message.key, headers, message.value).event == REQUEST


@pytest.mark.parametrize("name", REQUIRED_OF_REQUESTS)
def test_a_missing_header_of_a_request_is_named(name):
    message = request_message()
    for value, word in ((None, "missing"), (b"", "empty")):
        with pytest.raises(InvalidEnvelope, match=word) as caught:
            decode_request(message.key, with_header(message, name, value), message.value)
        assert caught.value.header == name


@pytest.mark.parametrize("name", REQUIRED_OF_FACTS)
def test_a_missing_header_of_a_fact_is_named(name):
    _, message = fact_message(CheckpointSaved(turn=3))
    with pytest.raises(InvalidEnvelope) as caught:
        decode_fact(message.key, with_header(message, name, None), message.value)
    assert caught.value.header == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content-type", b"text/plain"),
        ("content-type", b"application/cloudevents-batch+json"),
        ("ce_specversion", b"0.3"),
        ("ce_time", b"yesterday"),
        ("ce_time", b"2026-11-22T03:14:15"),
        ("ce_time", b"2026-13-22T03:14:15Z"),
        ("ce_sequence", b"7"),
        ("ce_sequence", b"000000000000000000x"),
        ("ce_source", b"\xff"),
        ("ce_partitionkey", b"other"),
        ("ce_dataref", b"blobs/abc"),
    ],
)
def test_a_wrong_header_is_named(name, value):
    message = request_message()
    with pytest.raises(InvalidEnvelope) as caught:
        decode_request(message.key, with_header(message, name, value), message.value)
    assert caught.value.header == name


def test_a_header_given_twice_is_refused():
    message = request_message()
    with pytest.raises(InvalidEnvelope, match="ce_type: given twice"):
        decode_request(message.key, [*message.headers, ("ce_type", b"x")], message.value)


@pytest.mark.parametrize("name", ["ce-type", "CE-Time", "ce-x"])
def test_a_header_with_the_http_prefix_is_refused(name):
    message = request_message()
    right = name.lower().replace("ce-", "ce_")
    rest = with_header(message, right, None)
    with pytest.raises(
        InvalidEnvelope, match=f"belongs to HTTP; on Kafka this header is `{right}`"
    ) as caught:
        decode_request(message.key, [*rest, (name, b"x")], message.value)
    assert caught.value.header == name.lower()


def test_ids_of_facts_are_uuids():
    _, message = fact_message(CheckpointSaved(turn=3))
    for name in ("ce_id", "ce_causationid"):
        with pytest.raises(InvalidEnvelope, match=f"{name}: not a UUID"):
            decode_fact(message.key, with_header(message, name, b"abc"), message.value)


def test_key_subject_and_build_id_must_be_equal():
    message = request_message()
    for key in (None, b"other", b""):
        with pytest.raises(InvalidEnvelope) as caught:
            decode_request(key, message.headers, message.value)
        assert caught.value.header == "key"
    with pytest.raises(InvalidData, match="wrong build id") as wrong:
        decode_request(b"other", with_header(message, "ce_subject", b"other"), message.value)
    assert wrong.value.field == "build_id"
    answer = ToolCallResultGiven(build_id="night-7", call_id="night-8/1/0", output="x")
    message = request_message(answer)
    with pytest.raises(InvalidData, match="wrong build id") as wrong:
        decode_request(message.key, message.headers, message.value)
    assert wrong.value.field == "call_id"
    _, fact = fact_message(
        ToolCallRequested(call_id="night-8/1/0", turn=1, index=0, tool="t", tool_use_id="i", input={})
    )
    with pytest.raises(InvalidData, match="call_id: wrong build id"):
        decode_fact(fact.key, fact.headers, fact.value)


def test_a_tombstone_is_an_error():
    message = request_message()
    with pytest.raises(InvalidEnvelope, match="tombstone"):
        decode_request(message.key, message.headers, None)
    _, fact = fact_message(CheckpointSaved(turn=3))
    with pytest.raises(InvalidEnvelope, match="tombstone"):
        decode_fact(fact.key, fact.headers, None)


def test_a_fact_is_no_request_and_a_request_is_no_fact():
    _, fact = fact_message(CheckpointSaved(turn=3))
    with pytest.raises(InvalidEnvelope, match="ce_type: a fact"):
        decode_request(fact.key, fact.headers, fact.value)
    message = request_message()
    headers = [
        *message.headers,
        *[pair for pair in fact.headers if pair[0] in {"ce_sequence", "ce_correlationid", "ce_causationid"}],
    ]
    headers = [
        ("ce_id", str(uuid4()).encode()) if name == "ce_id" else (name, value) for name, value in headers
    ]
    with pytest.raises(InvalidEnvelope, match="ce_type: a request"):
        decode_fact(message.key, headers, message.value)
    with pytest.raises(InvalidData, match="not a request"):
        encode_request(CheckpointSaved(turn=3), id="x", source="/x")


def test_unknown_types_and_unknown_versions_differ():
    message = request_message()
    for name, error in (
        (b"com.example.order", UnknownType),
        (b"nightshift.requests.build_requested.v9", UnknownVersion),
    ):
        with pytest.raises(error):
            decode_request(message.key, with_header(message, "ce_type", name), message.value)


def test_a_fact_with_a_dataref_is_read_from_the_fetched_data():
    event = CheckpointSaved(turn=3)
    envelope, _ = fact_message(event, dataref="blobs/abc")
    message = encode_fact(envelope, "{}")
    assert cloudevents.fact_envelope(message.key, message.headers).dataref == "blobs/abc"
    with pytest.raises(InvalidEnvelope) as caught:
        decode_fact(message.key, message.headers, message.value)
    assert caught.value.header == "ce_dataref"
    assert (
        decode_fact(message.key, message.headers, message.value, data=encode(event).encode()).event == event
    )
