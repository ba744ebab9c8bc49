"""What is around an event when it travels, and the little of it that a consumer looks at first."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import quote, unquote
from uuid import UUID

from nightshift.contracts import topics
from nightshift.contracts.ids import message_cause
from nightshift.contracts.model import Event

#: Kafka headers as clients give and take them.
Headers = Iterable[tuple[str, bytes | None]]

_SOURCE_PREFIX: Final = "/nightshift/"


@dataclass(frozen=True, slots=True)
class Message:
    """A Kafka message: what goes to the producer beside the topic."""

    key: bytes
    headers: tuple[tuple[str, bytes], ...]
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The CloudEvents attributes of one event. `type` is the name on the wire, such as `nightshift.build.ready.v1`.

    A fact has `time`, `sequence`, `correlation_id` and `causation_id`; a request may lack them.
    `flow_traceparent` is where the flow began, `traceparent` and `tracestate` are this hop's.
    `dataref` says that the whole data is in the object store, and where.
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

    @property
    def actor(self) -> str:
        """Who appended this fact, such as `orchestrator/7f3a`."""
        return unquote(self.source.removeprefix(_SOURCE_PREFIX))

    @property
    def cause(self) -> UUID:
        """What a request is as the cause of facts. Derived, because its id is the sender's to choose."""
        return message_cause(self.source, self.id)


@dataclass(frozen=True, slots=True)
class Received:
    """A message decoded and validated: `event` is of the newest version."""

    envelope: Envelope
    event: Event


class Peek(NamedTuple):
    """What decides whether a message is decoded at all. None where the header is missing or malformed."""

    type: str | None
    sequence: int | None
    subject: str | None


def peek(headers: Headers) -> Peek:
    """Wire type, sequence and subject from the headers alone. Never raises; the decoder says what is wrong."""
    found = dict(headers)
    sequence = found.get(topics.SEQUENCE)
    return Peek(
        _text(found.get(topics.TYPE)),
        int(sequence) if sequence is not None and sequence.isdigit() and len(sequence) == 19 else None,
        _text(found.get(topics.SUBJECT)),
    )


def fact_source(actor: str) -> str:
    """The `ce_source` of what this actor appended: a URI reference."""
    return _SOURCE_PREFIX + quote(actor, safe="/:@")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
