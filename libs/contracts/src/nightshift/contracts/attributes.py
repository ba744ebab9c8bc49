"""Writes CloudEvents attributes as Kafka headers, and reads them from headers or from a structured event."""

from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from nightshift.contracts import canonical, topics
from nightshift.contracts.envelope import Envelope, Headers
from nightshift.contracts.errors import InvalidData, InvalidEnvelope
from nightshift.contracts.limits import check_value
from nightshift.contracts.model import RFC_3339

JSON_TYPE: Final = "application/json"
STRUCTURED_TYPE: Final = "application/cloudevents+json"

_BATCH_TYPE = "application/cloudevents-batch"
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
    topics.PRINCIPAL,
)


class Attributes:
    """The CloudEvents attributes of a message, by the names of their Kafka headers, such as `ce_type`.

    In binary mode they are the message's headers. In structured mode they are members of the JSON object in its value.
    """

    def __init__(self, headers: Headers, *, structured: bool = False) -> None:
        self._headers = dict(headers)
        self._structured = structured

    def name(self, header: str) -> str:
        """Returns the name by which an error calls this attribute: that of the header, or in structured mode that of
        the JSON member.
        """
        return header.removeprefix("ce_") if self._structured else header

    def optional(self, header: str) -> str | None:
        """Returns the attribute as text, or None when it is missing. Raises InvalidEnvelope when it is not UTF-8."""
        value = self._headers.get(header)
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError:
            raise InvalidEnvelope("not UTF-8", header=self.name(header)) from None

    def required(self, header: str) -> str:
        """Returns the attribute as text. Raises InvalidEnvelope when it is missing or empty."""
        value = self.optional(header)
        if not value:
            raise InvalidEnvelope("missing" if value is None else "empty", header=self.name(header))
        return value

    def media_type(self) -> str:
        """Returns the content type in lower case and without parameters, or an empty text when it is missing."""
        return _media_type(self.optional(topics.CONTENT_TYPE) or "")

    def time(self) -> datetime | None:
        """Returns the time of the event, or None when the attribute is missing.

        Raises InvalidEnvelope when the attribute is present but is no time in the form of RFC 3339.
        """
        text = self.optional(topics.TIME)
        if text is None:
            return None
        wrong = InvalidEnvelope("not an RFC 3339 time", header=self.name(topics.TIME))
        if RFC_3339.fullmatch(text) is None:
            raise wrong
        try:
            return datetime.fromisoformat(text.upper())
        except ValueError:
            raise wrong from None

    def sequence(self) -> int | None:
        """Returns the stream version of a fact, or None when the attribute is missing.

        Raises InvalidEnvelope when the attribute is present but does not consist of 19 digits.
        """
        text = self.optional(topics.SEQUENCE)
        if text is None:
            return None
        if len(text) != _SEQUENCE_DIGITS or not (text.isascii() and text.isdigit()):
            raise InvalidEnvelope(f"not {_SEQUENCE_DIGITS} digits", header=self.name(topics.SEQUENCE))
        return int(text)

    def envelope(self, subject: str, *, correlation_id: str | None, causation_id: UUID | None) -> Envelope:
        """Returns all attributes as an Envelope with the given subject. Raises InvalidEnvelope for the first missing or
        wrong attribute.
        """
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
            replayed=self.optional(topics.REPLAYED) == "true",
            principal=self.optional(topics.PRINCIPAL),
        )


def written(envelope: Envelope) -> tuple[tuple[str, bytes], ...]:
    """Returns the attributes as Kafka headers for a message in binary mode, always in the same order."""
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
        (topics.DATASCHEMA, topics.schema_uri(envelope.type)),
        (topics.SEQUENCE, sequence),
        (topics.CORRELATION_ID, envelope.correlation_id),
        (topics.CAUSATION_ID, None if envelope.causation_id is None else str(envelope.causation_id)),
        (topics.FLOW_TRACEPARENT, envelope.flow_traceparent),
        (topics.TRACEPARENT, envelope.traceparent),
        (topics.TRACESTATE, envelope.tracestate),
        (topics.DATAREF, envelope.dataref),
        (topics.REPLAYED, "true" if envelope.replayed else None),
        (topics.PRINCIPAL, envelope.principal),
    )
    return tuple((name, text.encode()) for name, text in pairs if text is not None)


def structured(outer: Attributes, value: bytes) -> tuple[Attributes, Any]:
    """Returns the attributes and the data of a message in structured mode, whose value is one JSON object.

    `outer` are the message's Kafka headers, from which the mode is read. Raises InvalidEnvelope for another mode or a
    wrong attribute, InvalidData for invalid JSON, and TooLarge when a limit is exceeded.
    """
    if outer.media_type().startswith(_BATCH_TYPE):
        raise InvalidEnvelope(
            f"batch mode ({outer.media_type()}) is not supported; send one event per record",
            header=topics.CONTENT_TYPE,
        )
    if outer.media_type() != STRUCTURED_TYPE:
        supported = f"only {JSON_TYPE} and {STRUCTURED_TYPE} are supported"
        raise InvalidEnvelope(supported, header=topics.CONTENT_TYPE)
    document = canonical.loads(value, refuse_duplicates=True)
    if not isinstance(document, dict):
        raise InvalidData("a structured event must be a JSON object")
    data_type = document.get("datacontenttype", JSON_TYPE)
    if not isinstance(data_type, str) or _media_type(data_type) != JSON_TYPE:
        raise InvalidEnvelope(f"must be {JSON_TYPE}", header="datacontenttype")
    return Attributes(_as_headers(document, outer), structured=True), _data(document)


def _data(document: Mapping[str, Any]) -> Any:
    """Returns the member `data` of a structured event, or the JSON value that its member `data_base64` encodes.

    Raises InvalidEnvelope when both or neither are present, or when the base64 is wrong. Raises InvalidData or TooLarge
    for the JSON in `data_base64`.
    """
    if "data_base64" not in document:
        if "data" not in document:
            raise InvalidEnvelope("missing", header="data")
        return document["data"]
    if "data" in document:
        raise InvalidEnvelope("present together with `data`; send one of them", header="data_base64")
    try:
        text = b64decode(document["data_base64"], validate=True)
    except (TypeError, ValueError):
        raise InvalidEnvelope("not base64", header="data_base64") from None
    check_value(text)
    return canonical.loads(text, refuse_duplicates=True)


def _as_headers(document: Mapping[str, Any], outer: Attributes) -> Headers:
    for header in _ATTRIBUTES:
        name = header.removeprefix("ce_")
        value = document.get(name)
        if isinstance(value, str):
            yield header, value.encode(errors="surrogatepass")
        elif value is not None:
            raise InvalidEnvelope("must be a string", header=name)
    for hop in (topics.TRACEPARENT, topics.TRACESTATE):
        text = outer.optional(hop)
        if text is not None:
            yield hop, text.encode()


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def check_prefix(headers: Headers) -> None:
    """Raises InvalidEnvelope when a header begins with `ce-`, the prefix of CloudEvents over HTTP.

    On Kafka the prefix is `ce_`, and no consumer would read such a header.
    """
    for name, _ in headers:
        if name.startswith("ce-"):
            right = "ce_" + name.removeprefix("ce-")
            wrong = f"the prefix `ce-` belongs to HTTP; on Kafka this header is `{right}`"
            raise InvalidEnvelope(wrong, header=name)


def check_content_type(attributes: Attributes) -> None:
    """Raises InvalidEnvelope when the content type of a message in binary mode is missing or is not JSON."""
    if attributes.media_type() != JSON_TYPE:
        attributes.required(topics.CONTENT_TYPE)
        raise InvalidEnvelope(f"must be {JSON_TYPE}", header=topics.CONTENT_TYPE)


def checked_key(key: bytes | None, attributes: Attributes) -> str:
    """Returns the subject of a message, after a check that the message's key equals it.

    Raises InvalidEnvelope when the key is missing or differs, or when the attribute `partitionkey` is present and
    differs.
    """
    subject = attributes.required(topics.SUBJECT)
    if key is None:
        raise InvalidEnvelope("missing; the key must be the subject, to keep the order", header="key")
    if key != subject.encode():
        raise InvalidEnvelope(f"is not the {attributes.name(topics.SUBJECT)}", header="key")
    if attributes.optional(topics.PARTITION_KEY) not in {None, subject}:
        raise InvalidEnvelope("is not the key", header=attributes.name(topics.PARTITION_KEY))
    return subject


def uuid_of(text: str, header: str) -> UUID:
    """Returns the text of a header as a UUID. Raises InvalidEnvelope, which names `header`, for any other text."""
    try:
        return UUID(text)
    except ValueError:
        raise InvalidEnvelope("not a UUID", header=header) from None
