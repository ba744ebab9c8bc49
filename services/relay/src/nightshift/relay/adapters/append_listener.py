"""Listens for the NOTIFY that writers send after each commit, so that the relay reads new events at once."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence

import structlog

from nightshift.eventlog.backoff import Backoff, RetryDelay
from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import NightshiftError

_log = structlog.get_logger(__name__)

_BACKOFF = Backoff(first_s=0.5, cap_s=2.0)


class PostgresAppendListener:
    """Listens on one NOTIFY channel, over a database connection of its own."""

    def __init__(self, database: Database, *, channel: str) -> None:
        self._database = database
        self._channel = channel

    @contextlib.asynccontextmanager
    async def listen(self, shards: Sequence[int]) -> AsyncIterator["ReceivedNotifications"]:
        """Collect notifications about these shards until the block ends. Reconnects when the connection is lost."""
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
                await self._database.listen(
                    self._channel, notifications.on_payload, on_ready=notifications.on_ready
                )
            except NightshiftError as error:
                if notifications.listening:  # the lost connection had received notifications
                    retry.reset()
                _log.info("append_notifications.lost", error=str(error))
                await asyncio.sleep(retry.after_failure())
            finally:
                notifications.listening = False


class ReceivedNotifications:
    """The AppendNotifications port: collects the shards of received notifications."""

    def __init__(self, shards: Mapping[str, int]) -> None:
        self.listening = False
        self._shards = shards
        self._notified: set[int] = set()
        self._event = asyncio.Event()

    def on_ready(self) -> None:
        """Note that notifications arrive from now on. Also ends a running `wait`, because appends before now were not
        notified.
        """
        self.listening = True
        self._event.set()

    def on_payload(self, payload: str) -> None:
        """Note that a writer appended to the shard whose number is `payload`. Other groups' shards are ignored."""
        shard = self._shards.get(payload)
        if shard is not None:
            self._notified.add(shard)
            self._event.set()

    async def wait(self, seconds: float) -> frozenset[int]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()
        notified, self._notified = frozenset(self._notified), set()
        return notified
