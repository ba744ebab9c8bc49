"""Which topics have got something, told by the relay through PostgreSQL, for brokers that do not wake a waiting fetch.

The embedded broker answers a fetch when its wait is over, whatever arrives meanwhile. Consumers that ask it every few
milliseconds keep two cores busy with asking. So there the relay says, after the acknowledgement, where something new
is, and consumers ask then. It is only a bell: what it does not tell of is found a little later.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Self

import structlog

from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import NightshiftError

_log = structlog.get_logger(__name__)

#: The payload is one topic's name.
CHANNEL = "nightshift_published"
_AGAIN_S = 1.0


class PostgresWakes:
    """Hears the relay's word on a connection of its own. Enter it to listen, leave it to stop.

    `heard` is false while there is no connection: then nobody may rely on being called.
    """

    def __init__(self, database: Database) -> None:
        self.heard = False
        self._database = database
        self._bells: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        self._listening: asyncio.Task[None] | None = None

    def on(self, topic: str, ring: Callable[[], None]) -> None:
        """Have `ring` called whenever the topic has got something, or may have while we did not listen."""
        self._bells[topic].append(ring)

    async def __aenter__(self) -> Self:
        self._listening = asyncio.create_task(self._listen(), name="wakes")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            try:
                await self._database.listen(CHANNEL, self._told, on_ready=self._ready)
            except NightshiftError as error:
                _log.info("wakes.lost", error=str(error))
            finally:
                self.heard = False
            await asyncio.sleep(_AGAIN_S)

    def _ready(self) -> None:
        self.heard = True
        for topic in self._bells:
            self._told(topic)

    def _told(self, topic: str) -> None:
        for ring in self._bells.get(topic, ()):
            ring()
