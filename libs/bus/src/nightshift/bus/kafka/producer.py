"""Sends messages through aiokafka: in order, acknowledged by all in-sync replicas."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Self

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from nightshift.bus.kafka import internals
from nightshift.bus.kafka.credentials import connection_arguments
from nightshift.bus.port import MessageTooLarge, Outgoing, Sent
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.errors import Unavailable

_log = structlog.get_logger(__name__)

#: The most bytes that a request has beyond its largest message.
_REQUEST_OVERHEAD = 65_536


class KafkaProducer:
    """The Producer port on aiokafka. Connects at the first send, so that a service can start before its broker.

    After any failure it closes the client and makes a new one. The old client may still have messages in its buffer,
    which could arrive after their copies from the next attempt. A new client also ends an idempotent session that
    failed.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        client_id: str = "nightshift",
        timeout_s: float = 15.0,
        stop_s: float = 5.0,
        linger_ms: int = 0,
        batch_bytes: int = 262_144,
    ) -> None:
        """Prepare the producer without connecting.

        `timeout_s` limits one `send`, and `stop_s` limits closing (seconds). `linger_ms` and `batch_bytes` are
        aiokafka's `linger_ms` and `max_batch_size`.
        """
        self._settings = settings
        self._timeout_s = timeout_s
        self._stop_s = stop_s
        self._arguments: dict[str, Any] = {
            "client_id": client_id,
            "acks": "all",
            "enable_idempotence": settings.kafka_idempotence,
            "compression_type": None if settings.kafka_compression == "none" else settings.kafka_compression,
            "linger_ms": linger_ms,
            "max_batch_size": batch_bytes,
            "max_request_size": settings.kafka_max_message_bytes + _REQUEST_OVERHEAD,
            "request_timeout_ms": int(timeout_s * 1000),
        }
        self._client: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()

    async def send(self, messages: Sequence[Outgoing]) -> tuple[Sent, ...]:
        """Send messages in order. Returns when all in-sync replicas have acknowledged every message.

        Raises MessageTooLarge when the broker refuses one because of its size, and Unavailable for any other failure.
        """
        client: AIOKafkaProducer | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                client = await self._connected()
                futures = [
                    await client.send(
                        message.topic,
                        value=message.value,
                        key=message.key,
                        partition=message.partition,
                        headers=list(message.headers),
                    )
                    for message in messages
                ]
                records = await asyncio.gather(*futures)
        except MessageSizeTooLargeError as error:
            await self._discard(client)
            raise MessageTooLarge(f"the broker does not accept it: {error}") from error
        except (KafkaError, TimeoutError, OSError) as error:
            await self._discard(client)
            what = (
                "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
            )
            raise Unavailable(
                f"the broker at {self._settings.kafka_bootstrap} accepted no messages: {what}"
            ) from error
        return tuple(Sent(record.topic, record.partition, record.offset) for record in records)

    async def partitions(self, topic: str) -> int:
        """Return the number of partitions of a topic. Raises Unavailable when the broker does not answer."""
        client: AIOKafkaProducer | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                client = await self._connected()
                return len(await client.partitions_for(topic))
        except (KafkaError, TimeoutError, OSError) as error:
            await self._discard(client)
            raise Unavailable(
                f"the broker at {self._settings.kafka_bootstrap} does not answer: {error!r}"
            ) from error

    async def close(self) -> None:
        """Send the buffered messages and close the client within `stop_s` seconds. A later `send` connects again."""
        await self._discard(self._client)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._client is None:
                client = AIOKafkaProducer(**connection_arguments(self._settings), **self._arguments)
                try:
                    await client.start()
                except BaseException:
                    await self._stop(client)
                    raise
                self._client = client
            return self._client

    async def _discard(self, client: AIOKafkaProducer | None) -> None:
        if client is None:
            return
        if self._client is client:
            self._client = None
        await self._stop(client)

    async def _stop(self, client: AIOKafkaProducer) -> None:
        """Stop the client within a time limit, because aiokafka waits for a broker that does not answer."""
        with contextlib.suppress(KafkaError, OSError):
            try:
                async with asyncio.timeout(self._stop_s):
                    await client.stop()
            except TimeoutError:
                _log.warning("producer.close_timed_out", seconds=self._stop_s)
                await internals.close_connections(client)
