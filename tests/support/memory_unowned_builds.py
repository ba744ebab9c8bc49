"""The query for builds that an orchestrator should run, over the tables of the log in memory."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from nightshift.contracts.events.build import BuildAccepted
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.leases.memory import MemoryLeases
from nightshift.eventlog.memory import MemoryTables
from nightshift.eventlog.port import PendingItem
from nightshift.eventlog.prepare import recorded


@dataclass(frozen=True, slots=True)
class MemoryUnownedBuilds:
    """Implements the port UnownedBuilds as the functions `unowned_builds` and `builds_waiting_for_provider` do."""

    tables: MemoryTables
    leases: MemoryLeases
    now: Callable[[], datetime]

    async def unowned(self, *, limit: int, per_account: int) -> Sequence[str]:
        queued = {
            item.key for item in self._rows(PendingKind.QUEUED) if item.due_at is None or not self._due(item)
        }
        overdue = {item.key for item in self._rows(PendingKind.QUEUED)} - queued
        waits = {item.key: item for item in self._rows(PendingKind.WAITING)}
        rests = {item.key for item in self._rows(PendingKind.SLEEPER)}
        rests |= {
            item.key
            for item in (*waits.values(), *self._rows(PendingKind.PROVIDER))
            if item.due_at is None or not self._due(item)
        }
        alive = sorted(self._rows(PendingKind.BUILD), key=lambda item: (item.opened_at, item.key))
        accepted = {item.key: self._accepted(item) for item in alive}
        active: Counter[str] = Counter(
            accepted[key].account_id for key in accepted if key not in queued | overdue | waits.keys()
        )
        found = [(0, item.opened_at, item.key) for item in alive if item.key not in queued | rests]
        waiting = [item for item in alive if item.key in queued - rests]
        for item in sorted(waiting, key=lambda one: accepted[one.key].tier != "priority"):
            build = accepted[item.key]
            active[build.account_id] += 1
            if active[build.account_id] <= (build.max_active_builds or per_account):
                found.append((active[build.account_id], item.opened_at, item.key))
        return [key for *_, key in sorted(found) if not self._owned(key)][:limit]

    async def waiting_for_provider(self, *, limit: int) -> Sequence[str]:
        rows = sorted(self._rows(PendingKind.PROVIDER), key=lambda item: (item.opened_at, item.key))
        return [item.key for item in rows if not self._owned(item.key)][:limit]

    def _rows(self, kind: PendingKind) -> list[PendingItem]:
        return [item for item in self.tables.pending.values() if item.kind is kind]

    def _due(self, item: PendingItem) -> bool:
        return item.due_at is not None and item.due_at <= self.now()

    def _owned(self, build_id: str) -> bool:
        row = self.leases._rows.get(f"build/{build_id}")
        return (
            row is not None and row.owner is not None and row.expires_at > asyncio.get_running_loop().time()
        )

    def _accepted(self, item: PendingItem) -> BuildAccepted:
        data = recorded(self.tables.streams[item.stream_id].rows[0]).data
        assert isinstance(data, BuildAccepted)
        return data
