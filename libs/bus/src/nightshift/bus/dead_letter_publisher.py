"""Publishes messages that failed to the dead-letter topic."""

import asyncio
import random
import time

import structlog

from nightshift.bus import dead_letter_codec as codec
from nightshift.bus import metrics
from nightshift.bus.dead_letter_codec import Failure
from nightshift.bus.policy import RetryPolicy
from nightshift.bus.port import Inbound, Producer
from nightshift.eventlog.backoff import RetryDelay
from nightshift.eventlog.errors import Transient
from nightshift.eventlog.objects.port import ObjectStore

#: When a message's headers and key together exceed this size (bytes), the dead letter refers to them in the object
#: store.
_HEADERS_INLINE = 65_536

_log = structlog.get_logger(__name__)


class DeadLetterPublisher:
    """Publishes the dead letters of one service. Parts that are too large to send go to the object store."""

    def __init__(
        self,
        producer: Producer,
        objects: ObjectStore,
        *,
        topic: str,
        carry_limit: int = 1_048_576,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Create the publisher. `carry_limit` is the size in bytes of the largest message that the broker accepts."""
        self._producer = producer
        self._objects = objects
        self._topic = topic
        self._carry_limit = carry_limit
        self._retry = retry or RetryPolicy()

    async def publish(self, message: Inbound, failure: Failure, *, group: str) -> None:
        """Publish a failed message as a dead letter and return when the broker has acknowledged it.

        Retries without an end while the broker or the object store is unavailable, because the message would be lost
        otherwise.
        """
        delay, logged = RetryDelay(self._retry.dependency_backoff, random.random), 0.0
        while True:
            try:
                await self._send(message, failure, group)
            except Transient as error:
                if time.monotonic() - logged > self._retry.log_every_s:
                    logged = time.monotonic()
                    _log.warning("dead_letter.delayed", error=str(error), source_topic=message.topic)
                await asyncio.sleep(delay.after_failure())
            else:
                metrics.DEAD_LETTERS.labels(message.topic, failure.reason).inc()
                return

    async def _send(self, message: Inbound, failure: Failure, group: str) -> None:
        around = len(message.key or b"") + sum(
            len(name) + len(value or b"") + 8 for name, value in message.headers
        )
        headers_by_reference = around > min(_HEADERS_INLINE, self._carry_limit // 2)
        room = self._carry_limit - codec.BLOCK_BYTES - (0 if headers_by_reference else around)
        value_by_reference = message.value is not None and len(message.value) > room
        if value_by_reference and message.value is not None:
            await self._store(message.value)
        if headers_by_reference:
            await self._store(codec.pack_headers((*message.headers, ("", message.key))))
        dead_letter = codec.write(
            self._topic,
            message,
            failure,
            group=group,
            value_by_reference=value_by_reference,
            headers_by_reference=headers_by_reference,
        )
        await self._producer.send([dead_letter])

    async def _store(self, body: bytes) -> None:
        digest = codec.digest(body)
        await self._objects.put_if_absent(codec.object_key(digest), body)
