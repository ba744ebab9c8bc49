"""Gives each handled message a trace span, whose parent is the span that appended the message's event."""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from nightshift.bus.port import Handler, Subscription
from nightshift.contracts.model import Owner
from nightshift.eventlog.port import RecordedEvent
from nightshift.servicekit import tracing


def traced(subscriptions: Sequence[Subscription]) -> Sequence[Subscription]:
    """Return the subscriptions with handlers that run in a span, or the same subscriptions when tracing is off."""
    if tracing.exporter() is None:
        return subscriptions
    return [
        replace(one, handlers={kind: _traced(one, handler) for kind, handler in one.handlers.items()})
        for one in subscriptions
    ]


def _traced(subscription: Subscription, handler: Handler) -> Handler:
    name, topic, group = f"process {subscription.topic}", subscription.topic, subscription.group

    async def handle(event: RecordedEvent) -> None:
        # A trace begins with a request from outside or with a turn; a fact outside both has none.
        if not tracing.valid(event.traceparent) and event.data.owner is not Owner.OUTSIDE:
            await handler(event)
            return
        with tracing.span(name, kind="consumer", parent=event.traceparent) as span:
            if span.traceparent:
                place = structlog.contextvars.get_contextvars()
                offset, partition = place.get("offset"), place.get("partition")
                span.set(
                    {
                        "messaging.system": "kafka",
                        "messaging.operation.name": "process",
                        "messaging.operation.type": "process",
                        "messaging.destination.name": topic,
                        "messaging.consumer.group.name": group,
                        "messaging.destination.partition.id": None if partition is None else str(partition),
                        "messaging.kafka.offset": offset,
                        "messaging.message.id": str(event.event_id),
                        "nightshift.event.type": event.data.type,
                        _SUBJECT[event.data.stream]: event.subject,
                    }
                )
            await handler(event)

    return handle


_SUBJECT = {"build": "gen_ai.conversation.id", "account": "nightshift.account.id"}
