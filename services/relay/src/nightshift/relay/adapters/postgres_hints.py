"""The writers' notifications: a NOTIFY after each commit ends the relay's wait at once."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence

import structlog

from nightshift.eventlog.backoff import Backoff, RetryDelay
from nightshift.eventlog.errors import Unavailable
from nightshift.relay.adapters.postgres import BROKEN, connect, said

_log = structlog.get_logger(__name__)

_RECYCLE_S, _WATCH_S = 3600, 15
_BACKOFF = Backoff(first_s=0.5, cap_s=2.0)


class PostgresAppendListener:
    """Hears the writers' NOTIFY on a connection of its own, which is always read, watched, and new every hour."""

    def __init__(self, dsn: str, *, name: str, channel: str) -> None:
        self._dsn = dsn
        self._name = name
        self._channel = channel

    @contextlib.asynccontextmanager
    async def listen(self, shards: Sequence[int]) -> AsyncIterator["ReceivedNotifications"]:
        """AppendNotifications for these shards, as long as the block lasts; without a connection the relay only polls."""
        notifications = ReceivedNotifications({str(shard): shard for shard in shards})
        keeping = asyncio.create_task(self._keep(notifications))
        try:
            yield notifications
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(self, notifications: "ReceivedNotifications") -> None:
        retry = RetryDelay(_BACKOFF, random.random)
        while True:
            try:
                await self._listen_for_an_hour(notifications)
            except (Unavailable, *BROKEN) as error:
                if notifications.listening:  # it worked until now
                    retry.reset()
                _log.info("notifications.lost", error=said(error))
                await asyncio.sleep(retry.after_failure())
            finally:
                notifications.listening = False

    async def _listen_for_an_hour(self, notifications: "ReceivedNotifications") -> None:
        connection = await connect(self._dsn, f"{self._name} notifications")
        try:
            await connection.add_listener(self._channel, notifications.on_notify)
            notifications.listening = True
            notifications.wake()  # what was appended before we listened
            for _ in range(_RECYCLE_S // _WATCH_S):
                await asyncio.sleep(_WATCH_S)
                await connection.fetchval("SELECT 1", timeout=5)
        finally:
            connection.terminate()


class ReceivedNotifications:
    """Implements AppendNotifications."""

    def __init__(self, shards: Mapping[str, int]) -> None:
        self.listening = False
        self._shards = shards
        self._told: set[int] = set()
        self._event = asyncio.Event()

    def on_notify(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        """A writer appended to this shard."""
        shard = self._shards.get(str(payload))
        if shard is not None:
            self._told.add(shard)
            self._event.set()

    def wake(self) -> None:
        """End the wait, or the next one."""
        self._event.set()

    async def wait(self, seconds: float) -> frozenset[int]:
        """Until a hint, or for so long; the shards that were notified at."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()
        told, self._told = frozenset(self._told), set()
        return told
