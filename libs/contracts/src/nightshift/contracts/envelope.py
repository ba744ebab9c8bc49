"""The CloudEvents attributes of an event. `peek` reads only those by which consumers decide to skip a message."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import quote, unquote
from uuid import UUID

from nightshift.contracts import topics
from nightshift.contracts.ids import message_cause
from nightshift.contracts.model import Event

#: The headers of a Kafka message, as Kafka clients represent them.
Headers = Iterable[tuple[str, bytes | None]]

_SOURCE_PREFIX: Final = "/nightshift/"


@dataclass(frozen=True, slots=True)
class Message:
    """The key, headers and value of a Kafka message, without its topic."""

    key: bytes
    headers: tuple[tuple[str, bytes], ...]
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The CloudEvents attributes of one event. `type` is its wire name, such as `nightshift.build.ready.v1`.

    A fact always has `time`, `sequence` (its stream version), `correlation_id` and `causation_id`.

    - `flow_traceparent`: the trace in which the whole flow began; `traceparent` and `tracestate` belong to this
      message.
    - `dataref`: the object store key of the data, when the data is too large for the message.
    - `replayed`: an operator published this fact again.
    - `principal`: who asks, on a request; `nightshift.contracts.principals` explains it.
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
        """The causation id of all facts that follow from this request. The same `source` and `id` always give the same
        one.
        """
        return message_cause(self.source, self.id)


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded and validated message. `event` has been converted to the newest version of its type."""

    envelope: Envelope
    event: Event


class Peek(NamedTuple):
    """The attributes by which a consumer decides whether to decode a message.

    An attribute is None when its header is missing or malformed.
    """

    type: str | None
    sequence: int | None
    subject: str | None


def peek(headers: Headers) -> Peek:
    """Reads wire name, stream version and subject from the headers, without decoding the message.

    Never raises: a malformed header gives None, and the decoder reports it later.
    """
    found = dict(headers)
    sequence = found.get(topics.SEQUENCE)
    return Peek(
        _text(found.get(topics.TYPE)),
        int(sequence) if sequence is not None and sequence.isdigit() and len(sequence) == 19 else None,
        _text(found.get(topics.SUBJECT)),
    )


def fact_source(actor: str) -> str:
    """Returns the value of the header `ce_source` for facts that the process `actor` appended: a URI reference."""
    return _SOURCE_PREFIX + quote(actor, safe="/:@")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
