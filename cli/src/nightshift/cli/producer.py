"""Sends requests to Kafka, in the same form as any producer outside of Nightshift.

Requests are validated first, so that mistakes are reported at once.
"""

import os
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import ValidationError

from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.port import Outgoing
from nightshift.cli.connect import settings_for
from nightshift.cli.settings import ProducerSettings
from nightshift.contracts.cloudevents import decode_request, encode_request
from nightshift.contracts.errors import ContractError
from nightshift.contracts.model import Request
from nightshift.eventlog.errors import Refused
from nightshift.servicekit.tracing import valid

_SOURCE = "/nightshift/cli"

R = TypeVar("R", bound=Request)


def checked(kind: type[R], fields: dict[str, Any]) -> R:
    """Returns a request with these fields. Raises Refused, which names each wrong field."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc'])) or kind.type}: {one['msg']}" for one in error.errors()]
        raise Refused(
            f"the request cannot be sent: {'; '.join(wrong)}",
            hint="docs/reference lists the fields of every request",
        ) from None


async def send(home: Path, request: Request) -> None:
    """Sends a request and waits until the broker has acknowledged it.

    The request continues the trace that the variable TRACEPARENT names. Raises Refused, Unavailable or
    ConfigurationError.
    """
    trace = os.environ.get("TRACEPARENT")
    settings = settings_for(ProducerSettings, home)
    key_id, _, secret = (settings.request_key.get_secret_value() if settings.request_key else "").partition(
        ":"
    )
    try:
        message = encode_request(
            request,
            id=str(uuid4()),
            source=_SOURCE,
            principal=settings.principal,
            key=(key_id, secret) if secret else None,
            traceparent=trace if valid(trace) else None,
        )
        # Report here what a service would refuse later, where no person would see it.
        decode_request(message.key, message.headers, message.value)
    except ContractError as error:
        raise Refused(f"the request cannot be sent: {error}") from error
    async with KafkaProducer(settings, client_id="nightshift-cli") as producer:
        await producer.send([Outgoing.of(settings.topics.requests, message)])
