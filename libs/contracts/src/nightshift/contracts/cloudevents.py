"""Encodes and decodes CloudEvents 1.0 on Kafka: binary mode for all events, and structured mode for requests too.

Facts come from our own log, so decoding trusts their content. Requests come from anyone. Decoding checks their size
before it parses them, and refuses duplicate names, infinite numbers and unknown fields.
"""

from datetime import UTC, datetime
from math import isinf
from typing import Any

from nightshift.contracts import canonical, limits, topics
from nightshift.contracts.attributes import (
    Attributes,
    check_content_type,
    check_prefix,
    checked_key,
    structured,
    uuid_of,
    written,
)
from nightshift.contracts.envelope import Envelope, Headers, Message, Received
from nightshift.contracts.errors import InvalidData, InvalidEnvelope, TooLarge
from nightshift.contracts.model import Event, Owner
from nightshift.contracts.principals import checked_principal, signed
from nightshift.contracts.registry import CATALOGUE, Registry, encode, subject_of


def encode_fact(envelope: Envelope, data: str) -> Message:
    """Returns a fact as a Kafka message. `data` is its JSON text from the log.

    For a fact whose envelope has a `dataref`, `data` is `{}`, because the object store has the data.
    """
    return Message(envelope.subject.encode(), written(envelope), data.encode())


def encode_request(
    event: Event,
    *,
    id: str,
    source: str,
    time: datetime | None = None,
    traceparent: str | None = None,
    principal: str | None = None,
    key: tuple[str, str] | None = None,
) -> Message:
    """Returns the request `event` as a Kafka message for the topic `Topics().requests`. Raises InvalidData for a fact.

    The parameters:
    - `id`: you choose it. A message with the same `source` and `id` is the same request again.
    - `source`: a URI reference that names the sender, such as `/your-product/web`.
    - `time`: when the request was made; defaults to now.
    - `traceparent`: the trace that the request continues, if any.
    - `principal`: who asks: `operator`, or `account/<id>`.
    - `key`: the id and the secret of the key that signs the request. None sends it unsigned.
    """
    subject = subject_of(event)
    if subject is None or event.owner is not Owner.OUTSIDE:
        raise InvalidData(f"{event.type} is not a request")
    envelope = Envelope(
        id=id,
        type=CATALOGUE.wire_name(event.type, event.version),
        source=source,
        subject=subject,
        time=time if time is not None else datetime.now(UTC),
        flow_traceparent=traceparent,
        traceparent=traceparent,
        principal=principal,
    )
    message = Message(subject.encode(), written(envelope), encode(event).encode())
    return message if key is None else signed(message, envelope, key_id=key[0], secret=key[1])


def decode_fact(
    key: bytes | None,
    headers: Headers,
    value: bytes | None,
    *,
    data: bytes | None = None,
    registry: Registry = CATALOGUE,
) -> Received:
    """Returns the fact in a message. When its envelope has a `dataref`, `data` must be the bytes of the object with
    that key.

    Raises UnknownType, UnknownVersion, InvalidEnvelope or InvalidData.
    """
    return read_fact(fact_envelope(key, headers), value, data=data, registry=registry)


def read_fact(
    envelope: Envelope,
    value: bytes | None,
    *,
    data: bytes | None = None,
    registry: Registry = CATALOGUE,
) -> Received:
    """Returns the fact in a message whose envelope is decoded already. Otherwise like `decode_fact`."""
    type_, version = registry.parse_wire_name(envelope.type)
    if registry.model(type_).owner is Owner.OUTSIDE:
        raise InvalidEnvelope("a request is no fact", header=topics.TYPE)
    if value is None:
        raise InvalidEnvelope("null; requests and facts have no tombstones", header="value")
    if envelope.dataref is not None:
        if data is None:
            raise InvalidEnvelope("the data must be fetched first", header=topics.DATAREF)
        value = data
    event = registry.decode(type_, version, value)
    _check_subject(event, envelope.subject)
    return Received(envelope, event)


def fact_envelope(key: bytes | None, headers: Headers) -> Envelope:
    """Returns the envelope of a fact without decoding its data. Raises InvalidEnvelope."""
    attributes = Attributes(headers)
    check_content_type(attributes)
    envelope = attributes.envelope(
        checked_key(key, attributes),
        correlation_id=attributes.required(topics.CORRELATION_ID),
        causation_id=uuid_of(attributes.required(topics.CAUSATION_ID), topics.CAUSATION_ID),
    )
    uuid_of(envelope.id, topics.ID)
    for header, value in ((topics.TIME, envelope.time), (topics.SEQUENCE, envelope.sequence)):
        if value is None:
            raise InvalidEnvelope("missing", header=header)
    return envelope


def decode_request(
    key: bytes | None, headers: Headers, value: bytes | None, *, registry: Registry = CATALOGUE
) -> Received:
    """Returns the request in a message, in binary or structured mode.

    Checks everything, because anyone may send a request. Raises UnknownType, UnknownVersion, InvalidEnvelope,
    InvalidData or TooLarge.
    """
    given = tuple((name.lower(), content) for name, content in headers)
    _check_sizes(key, given)
    if value is None:
        raise InvalidEnvelope("null; requests and facts have no tombstones", header="value")
    limits.check_value(value)
    attributes = Attributes(given)
    if attributes.media_type().startswith("application/cloudevents"):
        attributes, data = structured(attributes, value)
    else:
        check_prefix(given)
        check_content_type(attributes)
        data = canonical.loads(value, refuse_duplicates=True)
    envelope = attributes.envelope(
        checked_key(key, attributes),
        correlation_id=attributes.optional(topics.CORRELATION_ID),
        causation_id=None,
    )
    if envelope.dataref is not None:
        raise InvalidEnvelope("a request carries its data", header=attributes.name(topics.DATAREF))
    if envelope.principal is not None:
        checked_principal(envelope.principal, header=attributes.name(topics.PRINCIPAL))
    _refuse_infinity(data)
    type_, version = registry.parse_wire_name(envelope.type)
    if registry.model(type_).owner is not Owner.OUTSIDE:
        raise InvalidEnvelope("a fact cannot be sent, only appended", header=attributes.name(topics.TYPE))
    event = registry.validate(type_, version, data)
    _check_subject(event, envelope.subject)
    size = len(encode(event))
    if size > limits.VALUE:
        raise TooLarge(f"the data has {size} bytes in ASCII, {limits.VALUE} are allowed", limit="value")
    return Received(envelope, event)


def _check_subject(event: Event, subject: str) -> None:
    own = subject_of(event)
    if own is not None and own != subject:
        wrong = f"wrong {event.stream} id: it is not the subject of its message"
        raise InvalidData(wrong, field=f"{event.stream}_id")
    call_id: str | None = event.__dict__.get("call_id")
    if call_id is not None and call_id.partition("/")[0] != subject:
        raise InvalidData("wrong build id: not a call of the build it was sent for", field="call_id")


def _refuse_infinity(data: Any, path: str = "") -> None:
    if isinstance(data, float) and isinf(data):
        raise InvalidData("a number too large to hold", field=path)
    if isinstance(data, dict):
        for name, value in data.items():
            _refuse_infinity(value, f"{path}.{name[:128]}" if path else name[:128])
    elif isinstance(data, list):
        for index, value in enumerate(data):
            _refuse_infinity(value, f"{path}.{index}")


def _check_sizes(key: bytes | None, headers: tuple[tuple[str, bytes | None], ...]) -> None:
    if key is not None and len(key) > limits.KEY:
        raise TooLarge(f"the key has {len(key)} bytes, {limits.KEY} are allowed", limit="key")
    seen: set[str] = set()
    for name, value in headers:
        if len(name) + len(value or b"") > limits.HEADER:
            raise TooLarge(f"{name[:128]}: over {limits.HEADER} bytes", limit="header")
        if name in seen and (name.startswith("ce_") or name == topics.CONTENT_TYPE):
            raise InvalidEnvelope("given twice", header=name)
        seen.add(name)
