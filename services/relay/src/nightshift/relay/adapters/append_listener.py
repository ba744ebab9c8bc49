"""Listens for the NOTIFY that writers send after each commit, so that the relay reads at once."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence

import structlog

from nightshift.eventlog.backoff import Backoff, RetryDelay
from nightshift.eventlog.errors import Unavailable
from nightshift.relay.adapters.connection import BROKEN, connect, one_line

_log = structlog.get_logger(__name__)

_RECONNECT_EVERY_S, _CHECK_EVERY_S = 3600, 15
_BACKOFF = Backoff(first_s=0.5, cap_s=2.0)


class PostgresAppendListener:
    """Implements AppendListener on a connection of its own, which is checked often and replaced every hour."""

    def __init__(self, dsn: str, *, name: str, channel: str) -> None:
        self._dsn = dsn
        self._name = name
        self._channel = channel

    @contextlib.asynccontextmanager
    async def listen(self, shards: Sequence[int]) -> AsyncIterator["ReceivedNotifications"]:
        """Receive notifications for these shards until the block ends. Reconnects when the connection is lost."""
        notifications = ReceivedNotifications({str(shard): shard for shard in shards})
        receiving = asyncio.create_task(self._receive(notifications))
        try:
            yield notifications
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _receive(self, notifications: "ReceivedNotifications") -> None:
        retry = RetryDelay(_BACKOFF, random.random)
        while True:
            try:
                await self._receive_for_an_hour(notifications)
            except (Unavailable, *BROKEN) as error:
                if notifications.listening:  # it worked until now
                    retry.reset()
                _log.info("append_notifications.lost", error=one_line(error))
                await asyncio.sleep(retry.after_failure())
            finally:
                notifications.listening = False

    async def _receive_for_an_hour(self, notifications: "ReceivedNotifications") -> None:
        connection = await connect(self._dsn, f"{self._name} notifications")
        try:
            await connection.add_listener(self._channel, notifications.on_notify)
            notifications.listening = True
            notifications.wake()  # for what was appended before
            for _ in range(_RECONNECT_EVERY_S // _CHECK_EVERY_S):
                await asyncio.sleep(_CHECK_EVERY_S)
                await connection.fetchval("SELECT 1", timeout=5)
        finally:
            connection.terminate()


class ReceivedNotifications:
    """Implements AppendNotifications."""

    def __init__(self, shards: Mapping[str, int]) -> None:
        self.listening = False
        self._shards = shards
        self._notified: set[int] = set()
        self._event = asyncio.Event()

    def on_notify(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        """Note the shard that a writer appended to. Its number is the payload."""
        shard = self._shards.get(str(payload))
        if shard is not None:
            self._notified.add(shard)
            self._event.set()

    def wake(self) -> None:
        """End the current wait, or the next one."""
        self._event.set()

    async def wait(self, seconds: float) -> frozenset[int]:
        """Wait for a notification, at most so long. Returns the shards with new events since the last wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()
        notified, self._notified = frozenset(self._notified), set()
        return notified
