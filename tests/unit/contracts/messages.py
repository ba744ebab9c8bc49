"""A fact and a request as Kafka messages, for the tests of the envelope."""

import json
from datetime import UTC, datetime
from uuid import uuid4

from nightshift.contracts.cloudevents import encode_fact, encode_request
from nightshift.contracts.envelope import Envelope, fact_source
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.registry import encode, wire_name

AT = datetime(2026, 11, 22, 3, 14, 15, 926535, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REQUEST = BuildRequested(build_id="night-7", project_id="p", account_id="a", idea_brief="A habit tracker")

REQUIRED_OF_REQUESTS = ["content-type", "ce_specversion", "ce_id", "ce_type", "ce_source", "ce_subject"]
REQUIRED_OF_FACTS = [*REQUIRED_OF_REQUESTS, "ce_time", "ce_sequence", "ce_correlationid", "ce_causationid"]


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


def structured_message(**changes):
    document = {
        "specversion": "1.0", "id": "r-1", "source": "/acme/web", "subject": "night-7", "unknown": 5,
        "type": "nightshift.requests.build_requested.v1", "data": json.loads(encode(REQUEST)), **changes,
    }  # fmt: skip
    value = json.dumps({name: part for name, part in document.items() if part is not ...}).encode()
    return [
        ("content-type", b"application/CloudEvents+json; charset=UTF-8"),
        ("traceparent", TRACE.encode()),
    ], value
