"""Reports every few seconds how much work this process has, and reads whether its service is being drained."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from nightshift.eventlog.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.eventlog.database import Database  # loads asyncpg, which a worker pool does not need

_log = structlog.get_logger(__name__)

#: Seconds between two reports, and the age at which a process counts as gone.
EVERY_S, GONE_AFTER_S = 3.0, 12.0
_NOTE = "SELECT nightshift.note_replica($1, $2, $3, $4, $5)"
_FORGET = "SELECT nightshift.forget_replica($1)"
#: The running processes of all services, as rows of service, replica_id, version, started_at, held, room, drained.
LIVE = "SELECT * FROM nightshift.live_replicas($1)"


@dataclass(frozen=True, slots=True)
class Work:
    """The load of a process. `held` is how many pieces of work it has, and `room` how many more it could take."""

    held: int = 0
    room: int = 0


@dataclass(frozen=True, slots=True)
class Replica:
    """A running process of a service, with the load that it last reported."""

    replica_id: str
    work: Work


class ReplicaReporter:
    """Reports the load of one process to the database. `drained` is True while an operator drains the service: the
    process must then take no new work.
    """

    def __init__(self, database: "Database", replica_id: str, service: str) -> None:
        self.drained = False
        self.work: Callable[[], Work] = Work
        self.on_drained: Callable[[bool], None] = lambda drained: None
        self._database = database
        self._replica_id = replica_id
        self._service = service
        self._version = version("nightshift-servicekit")

    async def run(self) -> None:
        """Report every few seconds until cancelled. An error of the database is only logged."""
        while True:
            try:
                await self.report()
            except NightshiftError as error:
                _log.warning("replica.not_reported", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def report(self) -> None:
        """Report once, and read whether the service is drained. When that has changed, call `on_drained` with the new
        value.

        Raises Unavailable when the database does not answer.
        """
        work = self.work()
        rows = await self._database.fetch(
            _NOTE, self._replica_id, self._service, self._version, work.held, work.room
        )
        if (drained := bool(rows[0][0])) is not self.drained:
            _log.info("service.drain_begun" if drained else "service.drain_ended", service=self._service)
            self.drained = drained
            self.on_drained(drained)

    async def peers(self) -> list[Replica]:
        """Return the running processes of this service, including this one. Raises Unavailable when the database does
        not answer.
        """
        rows = await self._database.fetch(LIVE, timedelta(seconds=GONE_AFTER_S))
        return [
            Replica(row["replica_id"], Work(row["held"], row["room"]))
            for row in rows
            if row["service"] == self._service
        ]

    async def forget(self) -> None:
        """Remove the report of this process, because it stops. Makes only one attempt and never raises."""
        with suppress(NightshiftError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._database.fetch(_FORGET, self._replica_id)
