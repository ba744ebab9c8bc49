"""Notifies the relay of new events after each commit, through PostgreSQL's NOTIFY.

A notification may be lost; the relay also polls.
"""

import asyncio

import structlog

from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import NightshiftError

_log = structlog.get_logger(__name__)

CHANNEL = "nightshift_log"

# NOTIFY holds one lock of the whole cluster until its transaction ends. In a transaction of its own that does not wait
# for the disk this takes microseconds. In the transaction of an append it would make all writers wait for each other's
# fsync.
_NOTIFY = """
SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, shard::text) FROM unnest($2::smallint[]) AS shard"""


#: The shortest time in seconds between two notifications of a process. The relay needs longer for one round of reads,
#: and each notification wakes every session that listens.
_BETWEEN_S = 0.004


class AppendNotifier:
    """Notifies the relay which shards have new events.

    Shards that get events while a notification is being sent are named together in the next one.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._shards: set[int] = set()
        self._sending: asyncio.Task[None] | None = None
        self._closing = False

    def notify(self, shard: int) -> None:
        """Tell the relay that this shard has new events. Returns at once; a background task sends the notification."""
        self._shards.add(shard)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def close(self) -> None:
        """Wait until all notifications are sent."""
        self._closing = True
        if self._sending is not None:
            await self._sending

    async def _send(self) -> None:
        try:
            while self._shards:
                shards, self._shards = sorted(self._shards), set()
                await self._database.fetch(_NOTIFY, CHANNEL, shards)
                if not self._closing:
                    await asyncio.sleep(_BETWEEN_S)
        except NightshiftError as error:
            self._shards.clear()
            _log.debug("append_notification.dropped", error=str(error))
        finally:
            self._sending = None
