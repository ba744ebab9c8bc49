"""Decodes each message of a subscription and calls the handler of its event type, or skips the message."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import structlog

from nightshift.bus.port import Handler, Inbound, Subscription, Undecodable, UndecodableRecord
from nightshift.bus.seen import SeenSequences
from nightshift.contracts import cloudevents
from nightshift.contracts.envelope import Received, peek
from nightshift.contracts.errors import ContractError
from nightshift.contracts.model import Event, Owner
from nightshift.contracts.principals import RequestKeys
from nightshift.contracts.registry import CATALOGUE, Registry
from nightshift.eventlog.errors import BadMessage, Refused
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.port import RecordedEvent, account_stream, build_stream

#: The header that a redrive adds to a message: the id of the dead letter. A message with this header is never stale.
REDRIVEN_FROM: Final = "dlq_driven_from"

_VERSION = re.compile(r"\.v[0-9]+$")
_UNCARED, _STALE = "uncared", "stale"
#: Why a message was skipped. Uncared: its type has no handler. Stale: this event, or a later one of its stream, was
#: handled.
SKIPS: Final = (_UNCARED, _STALE)


class Dispatcher:
    """Calls the handlers of one subscription. Remembers per stream the version of the last event that was handled."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        objects: ObjectStore,
        seen_subjects: int = 50_000,
        registry: Registry = CATALOGUE,
        keys: RequestKeys | None = None,
    ) -> None:
        """Create the dispatcher of one subscription.

        `objects` loads event data that is too large for a message. `seen_subjects` is the number of streams whose last
        handled version is remembered. If `keys` is given, every request must be signed. Raises ValueError unless all
        handled events have one owner, that is, come from one topic.
        """
        owners = {event.owner for event in subscription.handlers}
        if len(owners) != 1:
            raise ValueError(
                f"the handlers of {subscription.group} must be of one topic, these are of {len(owners)}"
            )
        self._owner = owners.pop()
        self._reports_undecodable = subscription.reports_undecodable
        self._handlers: Mapping[str, Handler] = {
            event.type: handler for event, handler in subscription.handlers.items()
        }
        self._registry = registry
        self._keys = keys
        self._objects = objects
        self._seen = SeenSequences(seen_subjects)
        # Event types of this topic (wire name without version) → whether the subscription has a handler for the type.
        self._cared = {
            _VERSION.sub("", registry.wire_name(type_, version)): type_ in self._handlers
            for (type_, version), model in registry.models.items()
            if model.owner is self._owner
        }

    def skip(self, message: Inbound) -> str | None:
        """Return the reason to skip this message, judged by its headers alone, without decoding it.

        Returns None when the message must be handled, or when the headers do not decide it.
        """
        peeked = peek(message.headers)
        if peeked.type is None:
            return None
        if self._cared.get(_VERSION.sub("", peeked.type)) is False:
            return _UNCARED
        if (
            self._owner is not Owner.OUTSIDE
            and peeked.sequence is not None
            and peeked.subject is not None
            and self._seen.is_stale(peeked.subject, peeked.sequence)
            and not any(name == REDRIVEN_FROM for name, _ in message.headers)
        ):
            return _STALE
        return None

    async def handle(self, message: Inbound) -> None:
        """Decode a message and call its handler. Raises the errors of decoding and of the handler.

        Ignores a message that does not decode when its type has no handler and the subscription's `reports_undecodable`
        is False. Adds the event's ids to the log context, which the caller must clear before each message.
        """
        try:
            event = await self._decode(message)
        except (Refused, ContractError):
            if self._reports_undecodable or self._names_a_handler(message):
                raise
            return  # another consumer group on this topic dead-letters it
        handler = self._handlers.get(event.data.type)
        if handler is None:
            return  # a structured CloudEvent: its headers do not tell its type, so `skip` could not decide
        call_id: str | None = getattr(event.data, "call_id", None)
        bound = {"event_id": str(event.event_id), event.data.stream + "_id": event.subject}
        if call_id is not None:
            bound["call_id"] = call_id
        structlog.contextvars.bind_contextvars(**bound)
        await handler(event)
        if self._owner is not Owner.OUTSIDE:
            self._seen.advance(event.subject, event.version)

    def _names_a_handler(self, message: Inbound) -> bool:
        named = peek(message.headers).type
        return named is not None and self._cared.get(_VERSION.sub("", named)) is True

    async def _decode(self, message: Inbound) -> RecordedEvent:
        if isinstance(message, Undecodable):
            last = message.next_offset - 1
            raise UndecodableRecord(f"offsets {message.offset} to {last}: {message.problem}")
        if self._owner is Owner.OUTSIDE:
            received = cloudevents.decode_request(
                message.key, message.headers, message.value, registry=self._registry
            )
            if self._keys is not None:
                self._keys.verify(received.envelope, message.headers, message.value or b"")
            return _request(received, message)
        envelope = cloudevents.fact_envelope(message.key, message.headers)
        data = await self._objects.get(_blob(envelope.dataref)) if envelope.dataref is not None else None
        received = cloudevents.read_fact(envelope, message.value, data=data, registry=self._registry)
        if received.event.owner is not self._owner:
            raise BadMessage(f"{received.event.type} does not belong on {message.topic}", field="ce_type")
        return _fact(received, message)


def _fact(received: Received, message: Inbound) -> RecordedEvent:
    envelope = received.envelope
    # The decoder has checked that a fact has both.
    assert envelope.sequence is not None  # noqa: S101
    assert envelope.causation_id is not None  # noqa: S101
    return RecordedEvent(
        event_id=UUID(envelope.id),
        stream_id=_stream(received.event, envelope.subject),
        version=envelope.sequence,
        data=received.event,
        correlation_id=envelope.correlation_id or envelope.subject,
        causation_id=envelope.causation_id,
        actor=envelope.actor,
        traceparent=envelope.traceparent or envelope.flow_traceparent,
        recorded_at=envelope.time or _arrival(message),
    )


def _request(received: Received, message: Inbound) -> RecordedEvent:
    """Return a request as a RecordedEvent. A request belongs to no stream yet, so its version is 0.

    Its event id is derived from the CloudEvent's source and id.
    """
    envelope = received.envelope
    return RecordedEvent(
        event_id=envelope.cause,
        stream_id=_stream(received.event, envelope.subject),
        version=0,
        data=received.event,
        correlation_id=envelope.correlation_id or envelope.subject,
        causation_id=envelope.causation_id or envelope.cause,
        actor=envelope.source,
        traceparent=envelope.traceparent or envelope.flow_traceparent,
        recorded_at=envelope.time or _arrival(message),
        principal=envelope.principal,
    )


def _stream(event: Event, subject: str) -> str:
    return account_stream(subject) if event.stream == "account" else build_stream(subject)


def _arrival(message: Inbound) -> datetime:
    return datetime.fromtimestamp(message.timestamp / 1000, UTC)


def _blob(reference: str) -> str:
    """Return the object store key that a `ce_dataref` header names. Raises BadMessage for a key outside `blobs/`."""
    name = reference.removeprefix("blobs/")
    if name == reference or not name.isalnum():
        raise BadMessage("not a reference to a blob", field="ce_dataref")
    return reference
