"""Receives the relay's notifications that a topic has new records."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Self

import structlog

from nightshift.bus.publish_notifications import CHANNEL
from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import NightshiftError

_log = structlog.get_logger(__name__)

_RECONNECT_S = 1.0


class PostgresPublishNotifications:
    """Receives notifications on a database connection of its own. Use it as an async context manager.

    `connected` is False while notifications would be lost. Consumers must poll then.
    """

    def __init__(self, database: Database) -> None:
        self.connected = False
        self._database = database
        self._subscribers: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        self._listening: asyncio.Task[None] | None = None

    def subscribe(self, topic: str, notify: Callable[[], None]) -> None:
        """Call `notify` whenever the topic has new records, and after each reconnect.

        Notifications may have been lost before a reconnect.
        """
        self._subscribers[topic].append(notify)

    async def __aenter__(self) -> Self:
        self._listening = asyncio.create_task(self._listen(), name="publish notifications")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            try:
                await self._database.listen(CHANNEL, self._received, on_ready=self._connected)
            except NightshiftError as error:
                _log.info("publish_notifications.lost", error=str(error))
            finally:
                self.connected = False
            await asyncio.sleep(_RECONNECT_S)

    def _connected(self) -> None:
        self.connected = True
        for topic in self._subscribers:
            self._received(topic)

    def _received(self, topic: str) -> None:
        for notify in self._subscribers.get(topic, ()):
            notify()
