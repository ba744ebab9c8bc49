"""CloudEvents 1.0 on Kafka, both ways: binary mode for everything, structured mode accepted on requests.

Facts come from our own log and are read fast. Requests come from anyone: limits before parsing, no duplicate names, no
number that is infinite, no unknown field.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isinf
from typing import Any, Final
from uuid import UUID

from nightshift.contracts import canonical, topics
from nightshift.contracts.envelope import Envelope, Headers, Message, Received
from nightshift.contracts.errors import InvalidData, InvalidEnvelope, TooLarge
from nightshift.contracts.limits import LIMITS, Limits, check_value
from nightshift.contracts.model import Event, Owner
from nightshift.contracts.registry import CATALOGUE, Registry, encode, subject_of
from nightshift.contracts.topics import schema_uri

JSON_TYPE: Final = "application/json"
STRUCTURED_TYPE: Final = "application/cloudevents+json"

_SEQUENCE_DIGITS = 19
_ATTRIBUTES: Final = (
    topics.SPECVERSION,
    topics.ID,
    topics.TYPE,
    topics.SOURCE,
    topics.SUBJECT,
    topics.TIME,
    topics.SEQUENCE,
    topics.CORRELATION_ID,
    topics.PARTITION_KEY,
    topics.FLOW_TRACEPARENT,
    topics.DATAREF,
)
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def encode_fact(envelope: Envelope, data: str) -> Message:
    """A fact of the log as a Kafka message. `data` is the text as the log has it, or `{}` beside a `dataref`."""
    return Message(envelope.subject.encode(), _headers(envelope), data.encode())


def encode_request(
    event: Event,
    *,
    id: str,
    source: str,
    time: datetime | None = None,
    traceparent: str | None = None,
) -> Message:
    """A request as a Kafka message for `Topics().requests`.

    `id` is yours: the same `source` and `id` again is the same request again. `source` is a URI reference that
    names the sender, such as `/your-product/web`. `time` defaults to now.
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
    )
    return Message(subject.encode(), _headers(envelope), encode(event).encode())


def decode_fact(
    key: bytes | None,
    headers: Headers,
    value: bytes | None,
    *,
    data: bytes | None = None,
    registry: Registry = CATALOGUE,
) -> Received:
    """The fact in a message. Where the envelope has a `dataref`, `data` is what the object store has there.

    Raises UnknownType, UnknownVersion, InvalidEnvelope, InvalidData.
    """
    return read_fact(fact_envelope(key, headers), value, data=data, registry=registry)


def read_fact(
    envelope: Envelope,
    value: bytes | None,
    *,
    data: bytes | None = None,
    registry: Registry = CATALOGUE,
) -> Received:
    """The fact in a message whose envelope was read before, as `decode_fact`."""
    type_, version = registry.parse_wire_name(envelope.type)
    if registry.model(type_).owner is Owner.OUTSIDE:
        raise InvalidEnvelope("a request is no fact", header=topics.TYPE)
    if value is None:
        raise InvalidEnvelope("null; a tombstone means nothing here", header="value")
    if envelope.dataref is not None:
        if data is None:
            raise InvalidEnvelope("the data must be fetched first", header=topics.DATAREF)
        value = data
    event = registry.decode(type_, version, value)
    _check_subject(event, envelope.subject)
    return Received(envelope, event)


def fact_envelope(key: bytes | None, headers: Headers) -> Envelope:
    """The envelope of a fact, without its data. Raises InvalidEnvelope."""
    attributes = _Attributes(headers)
    _check_content_type(attributes)
    envelope = attributes.envelope(
        _checked_key(key, attributes),
        correlation_id=attributes.required(topics.CORRELATION_ID),
        causation_id=_uuid(attributes.required(topics.CAUSATION_ID), topics.CAUSATION_ID),
    )
    _uuid(envelope.id, topics.ID)
    if envelope.time is None:
        raise InvalidEnvelope("missing", header=topics.TIME)
    if envelope.sequence is None:
        raise InvalidEnvelope("missing", header=topics.SEQUENCE)
    return envelope


def decode_request(
    key: bytes | None,
    headers: Headers,
    value: bytes | None,
    *,
    limits: Limits = LIMITS,
    registry: Registry = CATALOGUE,
) -> Received:
    """The request in a message, in binary or structured mode, with nothing taken on trust.

    Raises UnknownType, UnknownVersion, InvalidEnvelope, InvalidData, TooLarge.
    """
    given = tuple((name.lower(), content) for name, content in headers)
    _check_sizes(key, given, limits)
    if value is None:
        raise InvalidEnvelope("null; a tombstone means nothing here", header="value")
    check_value(value, limits)
    attributes = _Attributes(given)
    if attributes.media_type().startswith("application/cloudevents"):
        attributes, data = _structured(attributes, value)
    else:
        _check_content_type(attributes)
        data = canonical.loads(value, refuse_duplicates=True)
    envelope = attributes.envelope(
        _checked_key(key, attributes),
        correlation_id=attributes.optional(topics.CORRELATION_ID),
        causation_id=None,
    )
    if envelope.dataref is not None:
        raise InvalidEnvelope("a request carries its data", header=attributes.name(topics.DATAREF))
    _refuse_infinity(data)
    type_, version = registry.parse_wire_name(envelope.type)
    if registry.model(type_).owner is not Owner.OUTSIDE:
        raise InvalidEnvelope("a fact cannot be sent, only appended", header=attributes.name(topics.TYPE))
    event = registry.validate(type_, version, data)
    _check_subject(event, envelope.subject)
    canonical_bytes = len(encode(event))
    if canonical_bytes > limits.value:
        raise TooLarge(
            f"the data has {canonical_bytes} bytes in ASCII, {limits.value} are allowed", limit="value"
        )
    return Received(envelope, event)


class _Attributes:
    """CloudEvents attributes by their header names, wherever they came from."""

    def __init__(self, headers: Headers, *, structured: bool = False) -> None:
        self._headers = dict(headers)
        self._structured = structured

    def name(self, header: str) -> str:
        """What the sender calls it: a header's name, or an attribute's in structured mode."""
        return header.removeprefix("ce_") if self._structured else header

    def optional(self, header: str) -> str | None:
        value = self._headers.get(header)
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError:
            raise InvalidEnvelope("not UTF-8", header=self.name(header)) from None

    def required(self, header: str) -> str:
        value = self.optional(header)
        if not value:
            raise InvalidEnvelope("missing" if value is None else "empty", header=self.name(header))
        return value

    def media_type(self) -> str:
        return _media_type(self.optional(topics.CONTENT_TYPE) or "")

    def time(self) -> datetime | None:
        text = self.optional(topics.TIME)
        if text is None:
            return None
        wrong = InvalidEnvelope("not an RFC 3339 time", header=self.name(topics.TIME))
        if _RFC_3339.fullmatch(text) is None:
            raise wrong
        try:
            return datetime.fromisoformat(text.upper())
        except ValueError:
            raise wrong from None

    def sequence(self) -> int | None:
        text = self.optional(topics.SEQUENCE)
        if text is None:
            return None
        if len(text) != _SEQUENCE_DIGITS or not (text.isascii() and text.isdigit()):
            raise InvalidEnvelope(f"not {_SEQUENCE_DIGITS} digits", header=self.name(topics.SEQUENCE))
        return int(text)

    def envelope(self, subject: str, *, correlation_id: str | None, causation_id: UUID | None) -> Envelope:
        if self.required(topics.SPECVERSION) != "1.0":
            raise InvalidEnvelope("must be 1.0", header=self.name(topics.SPECVERSION))
        return Envelope(
            id=self.required(topics.ID),
            type=self.required(topics.TYPE),
            source=self.required(topics.SOURCE),
            subject=subject,
            time=self.time(),
            sequence=self.sequence(),
            correlation_id=correlation_id,
            causation_id=causation_id,
            flow_traceparent=self.optional(topics.FLOW_TRACEPARENT),
            traceparent=self.optional(topics.TRACEPARENT),
            tracestate=self.optional(topics.TRACESTATE),
            dataref=self.optional(topics.DATAREF),
        )


def _headers(envelope: Envelope) -> tuple[tuple[str, bytes], ...]:
    sequence = None if envelope.sequence is None else f"{envelope.sequence:0{_SEQUENCE_DIGITS}d}"
    time = None if envelope.time is None else envelope.time.astimezone(UTC).isoformat().replace("+00:00", "Z")
    pairs = (
        (topics.CONTENT_TYPE, JSON_TYPE),
        (topics.SPECVERSION, "1.0"),
        (topics.ID, envelope.id),
        (topics.TYPE, envelope.type),
        (topics.SOURCE, envelope.source),
        (topics.SUBJECT, envelope.subject),
        (topics.TIME, time),
        (topics.DATASCHEMA, schema_uri(envelope.type)),
        (topics.SEQUENCE, sequence),
        (topics.CORRELATION_ID, envelope.correlation_id),
        (topics.CAUSATION_ID, None if envelope.causation_id is None else str(envelope.causation_id)),
        (topics.FLOW_TRACEPARENT, envelope.flow_traceparent),
        (topics.TRACEPARENT, envelope.traceparent),
        (topics.TRACESTATE, envelope.tracestate),
        (topics.DATAREF, envelope.dataref),
    )
    return tuple((name, text.encode()) for name, text in pairs if text is not None)


def _structured(outer: _Attributes, value: bytes) -> tuple[_Attributes, Any]:
    if outer.media_type() != STRUCTURED_TYPE:
        raise InvalidEnvelope(f"only {JSON_TYPE} and {STRUCTURED_TYPE} are read", header=topics.CONTENT_TYPE)
    document = canonical.loads(value, refuse_duplicates=True)
    if not isinstance(document, dict):
        raise InvalidData("a structured event must be a JSON object")
    if "data" not in document:
        raise InvalidEnvelope("missing", header="data")
    data_type = document.get("datacontenttype", JSON_TYPE)
    if not isinstance(data_type, str) or _media_type(data_type) != JSON_TYPE:
        raise InvalidEnvelope(f"must be {JSON_TYPE}", header="datacontenttype")
    return _Attributes(_as_headers(document, outer), structured=True), document["data"]


def _as_headers(document: Mapping[str, Any], outer: _Attributes) -> Headers:
    for header in _ATTRIBUTES:
        name = header.removeprefix("ce_")
        value = document.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise InvalidEnvelope("must be a string", header=name)
        yield header, value.encode(errors="surrogatepass")
    for hop in (topics.TRACEPARENT, topics.TRACESTATE):
        text = outer.optional(hop)
        if text is not None:
            yield hop, text.encode()


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _check_content_type(attributes: _Attributes) -> None:
    if attributes.media_type() != JSON_TYPE:
        attributes.required(topics.CONTENT_TYPE)
        raise InvalidEnvelope(f"must be {JSON_TYPE}", header=topics.CONTENT_TYPE)


def _check_sizes(key: bytes | None, headers: tuple[tuple[str, bytes | None], ...], limits: Limits) -> None:
    if key is not None and len(key) > limits.key:
        raise TooLarge(f"the key has {len(key)} bytes, {limits.key} are allowed", limit="key")
    seen: set[str] = set()
    for name, value in headers:
        if len(name) + len(value or b"") > limits.header:
            raise TooLarge(f"{name[:128]}: over {limits.header} bytes", limit="header")
        if name in seen and (name.startswith("ce_") or name == topics.CONTENT_TYPE):
            raise InvalidEnvelope("given twice", header=name)
        seen.add(name)


def _checked_key(key: bytes | None, attributes: _Attributes) -> str:
    subject = attributes.required(topics.SUBJECT)
    if key is None:
        raise InvalidEnvelope("missing; it must be the subject, or the order is lost", header="key")
    if key != subject.encode():
        raise InvalidEnvelope(f"is not the {attributes.name(topics.SUBJECT)}", header="key")
    if attributes.optional(topics.PARTITION_KEY) not in {None, subject}:
        raise InvalidEnvelope("is not the key", header=attributes.name(topics.PARTITION_KEY))
    return subject


def _check_subject(event: Event, subject: str) -> None:
    own = subject_of(event)
    if own is not None and own != subject:
        raise InvalidData(
            f"wrong {event.stream} id: it is not the subject of its message", field=f"{event.stream}_id"
        )
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


def _uuid(text: str, header: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidEnvelope("not a UUID", header=header) from None
