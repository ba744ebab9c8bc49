"""Puts messages into the dead-letter topic, for as long as it takes: a message is neither dropped nor passed by."""

import asyncio
import time

import structlog

from nightshift.bus import dead_letter_codec, metrics
from nightshift.bus.dead_letter_codec import Failure
from nightshift.bus.policy import RetryPolicy
from nightshift.bus.port import Inbound, Outgoing, Producer
from nightshift.eventlog.errors import Transient
from nightshift.eventlog.objects.port import ObjectStore

#: Original headers and key above this size are kept in the object store.
_HEADERS_INLINE = 65_536

_log = structlog.get_logger(__name__)


class DeadLetterPublisher:
    """One service's way to the dead-letter topic."""

    def __init__(
        self,
        producer: Producer,
        objects: ObjectStore,
        *,
        topic: str,
        carry_limit: int = 1_048_576,
        retry: RetryPolicy | None = None,
    ) -> None:
        """`carry_limit`: bytes that the broker takes in one message."""
        self._producer = producer
        self._objects = objects
        self._topic = topic
        self._carry_limit = carry_limit
        self._retry = retry or RetryPolicy()

    async def park(self, message: Inbound, failure: Failure, *, group: str) -> None:
        """Returns when the dead letter is acked. Waits as long as broker or object store are away."""
        failures, said = 0, 0.0
        while True:
            try:
                await self._send(message, failure, group)
            except Transient as error:
                failures += 1
                if time.monotonic() - said > self._retry.say_every_s:
                    said = time.monotonic()
                    _log.warning(
                        "dead letter waits", why=str(error), tries=failures, source_topic=message.topic
                    )
                await asyncio.sleep(self._retry.ground_delay(failures))
            else:
                metrics.DEAD_LETTERS.labels(message.topic, failure.reason).inc()
                return

    async def _send(self, message: Inbound, failure: Failure, group: str) -> None:
        around = len(message.key or b"") + sum(
            len(name) + len(value or b"") + 8 for name, value in message.headers
        )
        headers_by_reference = around > min(_HEADERS_INLINE, self._carry_limit // 2)
        room = self._carry_limit - dead_letter_codec.BLOCK_BYTES - (0 if headers_by_reference else around)
        value_by_reference = message.value is not None and len(message.value) > room
        if value_by_reference and message.value is not None:
            await self._keep(message.value)
        if headers_by_reference:
            await self._keep(dead_letter_codec.pack_headers((*message.headers, ("", message.key))))
        letter: Outgoing = dead_letter_codec.write(
            self._topic,
            message,
            failure,
            group=group,
            value_by_reference=value_by_reference,
            headers_by_reference=headers_by_reference,
        )
        await self._producer.send([letter])

    async def _keep(self, body: bytes) -> None:
        digest = dead_letter_codec.digest(body)
        await self._objects.put_if_absent(dead_letter_codec.object_key(digest), body)
