import contextlib
import json
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from cloudevents.core.bindings import kafka as peer
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.contracts.strategies import events, json_values, times

from nightshift.contracts import cloudevents
from nightshift.contracts.cloudevents import decode_fact, decode_request, encode_fact, encode_request
from nightshift.contracts.envelope import Envelope, Peek, fact_source, peek
from nightshift.contracts.errors import (
    ContractError,
    InvalidData,
    InvalidEnvelope,
    TooLarge,
    UnknownType,
    UnknownVersion,
)
from nightshift.contracts.events.account import AccountBudgetSet, AccountOpened, AccountToppedUp
from nightshift.contracts.events.build import CheckpointSaved, ToolCallRequested
from nightshift.contracts.events.requests import BuildRequested, ToolCallApprovalGiven, ToolCallResultGiven
from nightshift.contracts.limits import Limits
from nightshift.contracts.model import Owner
from nightshift.contracts.registry import encode, subject_of, wire_name

AT = datetime(2026, 11, 22, 3, 14, 15, 926535, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REQUEST = BuildRequested(build_id="night-7", project_id="p", account_id="a", idea_brief="A habit tracker")


def fact_message(event, subject="night-7", **more):
    envelope = Envelope(
        id=str(uuid4()),
        type=wire_name(event.type, event.version),
        source=fact_source("orchestrator/höst 1"),
        subject=subject,
        time=AT,
        sequence=7,
        correlation_id="night-7",
        causation_id=uuid4(),
        **more,
    )
    return envelope, encode_fact(envelope, encode(event))


def request_message(event=REQUEST, **more):
    return encode_request(event, id="r-1", source="/acme/web", time=AT, **more)


def with_header(message, name, value):
    """The headers with this one replaced, or left out for None."""
    rest = [(other, content) for other, content in message.headers if other != name]
    return rest if value is None else [*rest, (name, value)]


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


def test_the_headers_of_a_fact():
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


def test_a_consumer_can_look_at_the_headers_alone():
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


REQUIRED_OF_REQUESTS = ["content-type", "ce_specversion", "ce_id", "ce_type", "ce_source", "ce_subject"]
REQUIRED_OF_FACTS = [*REQUIRED_OF_REQUESTS, "ce_time", "ce_sequence", "ce_correlationid", "ce_causationid"]


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


def test_ids_of_facts_are_uuids():
    _, message = fact_message(CheckpointSaved(turn=3))
    for name in ("ce_id", "ce_causationid"):
        with pytest.raises(InvalidEnvelope, match=f"{name}: not a UUID"):
            decode_fact(message.key, with_header(message, name, b"abc"), message.value)


def test_the_key_is_the_subject_is_the_build():
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


def test_facts_do_not_come_in_as_requests_nor_requests_as_facts():
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


def test_unknown_types_and_versions_are_told_apart():
    message = request_message()
    for name, error in (
        (b"com.example.order", UnknownType),
        (b"nightshift.requests.build_requested.v9", UnknownVersion),
    ):
        with pytest.raises(error):
            decode_request(message.key, with_header(message, "ce_type", name), message.value)


def test_a_fact_whose_data_was_moved_is_read_with_what_was_fetched():
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


def _structured(**changes):
    document = {
        "specversion": "1.0", "id": "r-1", "source": "/acme/web", "subject": "night-7", "unknown": 5,
        "type": "nightshift.requests.build_requested.v1", "data": json.loads(encode(REQUEST)), **changes,
    }  # fmt: skip
    value = json.dumps({name: part for name, part in document.items() if part is not ...}).encode()
    return [
        ("content-type", b"application/CloudEvents+json; charset=UTF-8"),
        ("traceparent", TRACE.encode()),
    ], value


def test_structured_mode_is_read():
    headers, value = _structured()
    received = decode_request(b"night-7", headers, value)
    assert received.event == REQUEST
    assert received.envelope.traceparent == TRACE


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
        ({"data": ..., "data_base64": "e30="}, "data"),
        ({"datacontenttype": "text/xml"}, "datacontenttype"),
        ({"datacontenttype": 5}, "datacontenttype"),
        ({"dataref": "x"}, "dataref"),
        ({"type": "nightshift.build.checkpoint_saved.v1"}, "type"),
    ],
)
def test_structured_errors_name_the_attribute(changes, header):
    headers, value = _structured(**changes)
    with pytest.raises(InvalidEnvelope) as caught:
        decode_request(b"night-7", headers, value)
    assert caught.value.header == header


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
def test_what_is_not_a_request_is_refused_with_its_reason(value, error, words):
    message = request_message()
    with pytest.raises(error, match=words):
        decode_request(message.key, message.headers, value)


def test_keys_and_headers_are_limited_too():
    message = request_message()
    with pytest.raises(TooLarge, match="key"):
        decode_request(b"k" * 129, message.headers, message.value)
    with pytest.raises(TooLarge, match="x-more"):
        decode_request(message.key, [*message.headers, ("x-more", b"v" * 5000)], message.value)


def test_limits_take_what_they_allow():
    message = request_message()
    limits = Limits(value=len(message.value))
    assert decode_request(message.key, message.headers, message.value, limits=limits).event == REQUEST
    with pytest.raises(TooLarge):
        decode_request(message.key, message.headers, message.value + b" ", limits=limits)


def test_text_that_swells_in_ascii_counts_as_it_will_be_stored():
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
def test_what_the_schema_does_not_allow_is_refused_and_never_read_as_something_else(request_, field, value):
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
def test_whatever_comes_in_only_our_own_errors_come_out(changes, value, in_structure):
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


@given(
    st.dictionaries(
        st.sampled_from(["id", "type", "source", "subject", "time", "data", "sequence"]), json_values
    )
)
def test_whatever_is_inside_a_structured_value_only_our_own_errors_come_out(changes):
    headers, value = _structured()
    document = {**json.loads(value), **changes}
    with contextlib.suppress(ContractError):
        decode_request(b"night-7", headers, json.dumps(document).encode())


@given(events)
def test_broken_json_is_refused(event):
    message = request_message()
    value = encode(event).encode()
    for broken in (value[:-1], value[1:], value[: len(value) // 2], value.replace(b'"', b"'")):
        with pytest.raises(ContractError):
            decode_request(message.key, message.headers, broken)
