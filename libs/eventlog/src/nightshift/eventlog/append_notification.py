"""Tells the relay, after a commit, that a shard has something new. A hint may be lost: the relay also polls."""

import asyncio

import structlog

from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import NightshiftError

_log = structlog.get_logger(__name__)

CHANNEL = "nightshift_log"

# NOTIFY holds one lock of the whole cluster until its commit is done. In a transaction of its own that does not wait
# for the disk this is microseconds; inside an append it would be every writer's fsync, one after the other.
_NOTIFY = """
SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, shard::text) FROM unnest($2::smallint[]) AS shard"""


#: Seconds between two hints of a process. The relay's own round takes longer, and each hint wakes every session of the
#: database that listens to anything.
_BETWEEN = 0.004


class Hint:
    """At once when none left just before; what comes meanwhile leaves with the next. At most one is in flight."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._shards: set[int] = set()
        self._sending: asyncio.Task[None] | None = None
        self._closing = False

    def tell(self, shard: int) -> None:
        """Returns at once."""
        self._shards.add(shard)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def close(self) -> None:
        """Wait for the last one to leave."""
        self._closing = True
        if self._sending is not None:
            await self._sending

    async def _send(self) -> None:
        try:
            while self._shards:
                shards, self._shards = sorted(self._shards), set()
                await self._database.fetch(_NOTIFY, CHANNEL, shards)
                if not self._closing:
                    await asyncio.sleep(_BETWEEN)
        except NightshiftError as error:
            self._shards.clear()
            _log.debug("hint.dropped", error=str(error))
        finally:
            self._sending = None
