"""Gauges of the whole installation.

The budget service reads them from the database, because it is never scaled to zero. Every replica exports the same
values. So take the maximum over the replicas, never the sum.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog
from prometheus_client import Gauge

from nightshift.contracts.model import PendingKind
from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import Transient

_log = structlog.get_logger(__name__)

#: Seconds between two reads.
_EVERY_S = 15.0

_BUILDS = Gauge("nightshift_builds", "Builds that have not ended.", ["phase", "state"])
_SLEEPERS = Gauge("nightshift_sleepers", "Builds that sleep.")
_PENDING = Gauge("nightshift_pending", "Rows that wait for a service or a person.", ["kind"])
_OLDEST = Gauge(
    "nightshift_pending_oldest_seconds", "The age of the oldest row that waits, 0 without one.", ["kind"]
)
_RESERVED = Gauge(
    "nightshift_budget_reserved_dollars", "Money reserved for builds and neither spent nor released."
)

_RESERVED_QUERY = "SELECT coalesce(sum(amount), 0)::bigint FROM nightshift.reservations WHERE outcome IS NULL"


class SystemGauges:
    """Sets the gauges. `database` connects as the role nightshift_budget."""

    def __init__(self, database: Database, *, every_s: float = _EVERY_S) -> None:
        self._database = database
        self._every_s = every_s

    async def run(self) -> None:
        """Update the gauges until cancelled. While the database is unavailable, they keep their values."""
        while True:
            try:
                await self.read()
            except Transient as error:
                _log.warning("gauges.not_read", error=str(error))
            await asyncio.sleep(self._every_s)

    async def read(self) -> None:
        """Update the gauges once. Raises Transient while the database is unavailable."""
        pending = await self._database.fetch("SELECT kind, items, oldest_s FROM nightshift.pending_counts()")
        builds = await self._database.fetch("SELECT phase, state, builds FROM nightshift.build_counts()")
        reserved = await self._database.fetch(_RESERVED_QUERY)
        _set_pending(pending)
        _BUILDS.clear()  # a phase without builds has no row
        for phase, state, count in builds:
            _BUILDS.labels(phase, state).set(count)
        _RESERVED.set(reserved[0][0] / 1e6)


def _set_pending(rows: Iterable[Any]) -> None:
    found = {kind: (items, oldest_s) for kind, items, oldest_s in rows}
    for kind in PendingKind:
        items, oldest_s = found.get(kind.value, (0, 0.0))
        _PENDING.labels(kind.value).set(items)
        _OLDEST.labels(kind.value).set(oldest_s)
    _SLEEPERS.set(found.get(PendingKind.SLEEPER.value, (0, 0.0))[0])
