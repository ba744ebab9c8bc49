"""The CloudEvents attributes of an event, and `peek`, which reads only the three by which consumers filter."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import quote, unquote
from uuid import UUID

from nightshift.contracts import topics
from nightshift.contracts.ids import message_cause
from nightshift.contracts.model import Event

#: Kafka headers as Kafka clients represent them.
Headers = Iterable[tuple[str, bytes | None]]

_SOURCE_PREFIX: Final = "/nightshift/"


@dataclass(frozen=True, slots=True)
class Message:
    """A Kafka message without its topic."""

    key: bytes
    headers: tuple[tuple[str, bytes], ...]
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The CloudEvents attributes of one event. `type` is the name on the wire, such as `nightshift.build.ready.v1`.

    A fact always has `time`, `sequence`, `correlation_id` and `causation_id`. `flow_traceparent` is the trace in which
    the flow began; `traceparent` and `tracestate` belong to this hop. `dataref` is the object that holds the data.
    `replayed` marks a fact that an operator published again. `principal` says who asks, on a request: see `principals`.
    """

    id: str
    type: str
    source: str
    subject: str
    time: datetime | None = None
    sequence: int | None = None
    correlation_id: str | None = None
    causation_id: UUID | None = None
    flow_traceparent: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    dataref: str | None = None
    replayed: bool = False
    principal: str | None = None

    @property
    def actor(self) -> str:
        """The process that appended this fact, such as `orchestrator/7f3a`."""
        return unquote(self.source.removeprefix(_SOURCE_PREFIX))

    @property
    def cause(self) -> UUID:
        """The id that facts name as their cause when this request caused them. Derived from `source` and `id`."""
        return message_cause(self.source, self.id)


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded and validated message. `event` has the newest version of its type."""

    envelope: Envelope
    event: Event


class Peek(NamedTuple):
    """The headers by which a consumer decides whether to decode a message. Each is None when missing or malformed."""

    type: str | None
    sequence: int | None
    subject: str | None


def peek(headers: Headers) -> Peek:
    """Reads wire type, sequence and subject from the headers alone. Never raises: the decoder reports errors."""
    found = dict(headers)
    sequence = found.get(topics.SEQUENCE)
    return Peek(
        _text(found.get(topics.TYPE)),
        int(sequence) if sequence is not None and sequence.isdigit() and len(sequence) == 19 else None,
        _text(found.get(topics.SUBJECT)),
    )


def fact_source(actor: str) -> str:
    """Returns the `ce_source` of facts that this actor appends: a URI reference."""
    return _SOURCE_PREFIX + quote(actor, safe="/:@")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
