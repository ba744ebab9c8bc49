"""What replicas know about the provider's key, in memory. It passes the conformance suite of the port."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from nightshift.eventlog.wire import Wire, called
from nightshift.orchestrator.ports import RefusedKey


@dataclass(slots=True)
class KeyRow:
    """A row of the table `provider_keys`."""

    refused: RefusedKey
    next_probe_at: datetime
    refusals: int = 0
    probing: bool = False


@dataclass(slots=True)
class KeyTable:
    """The table `provider_keys`, which replicas share. `incidents` counts them by key."""

    rows: dict[str, KeyRow] = field(default_factory=dict)
    incidents: dict[str, int] = field(default_factory=dict)
    probes: int = 0


class MemoryProviderKey:
    """Implements the port ProviderKey."""

    def __init__(
        self,
        table: KeyTable,
        key_id: str,
        *,
        now: Callable[[], datetime],
        first_probe_s: float = 30.0,
        longest_probe_s: float = 900.0,
        wire: Wire | None = None,
    ) -> None:
        self._table = table
        self.key_id = key_id
        self._now = now
        self._first = first_probe_s
        self._longest = longest_probe_s
        self._wire = wire

    async def refused(self) -> RefusedKey | None:
        def read() -> RefusedKey | None:
            row = self._table.rows.get(self.key_id)
            return None if row is None else row.refused

        return await called(self._wire, "key.refused", read)

    async def refuse(self, refused: RefusedKey) -> bool:
        def write() -> bool:
            row, now = self._table.rows.get(self.key_id), self._now()
            if row is None:
                self._table.rows[self.key_id] = KeyRow(refused, now + timedelta(seconds=self._first))
                self._table.incidents[self.key_id] = self._table.incidents.get(self.key_id, 0) + 1
                return True
            if row.probing:
                wait = min(self._longest, self._first * 2 ** (row.refusals + 1))
                since = row.refused.since
                self._table.rows[self.key_id] = KeyRow(
                    RefusedKey(refused.kind, refused.status, refused.detail, since),
                    now + timedelta(seconds=wait),
                    row.refusals + 1,
                )
            return False

        return await called(self._wire, "key.refuse", write)

    async def take_probe(self) -> bool:
        def take() -> bool:
            row, now = self._table.rows.get(self.key_id), self._now()
            if row is None or row.next_probe_at > now:
                return False
            row.probing, row.next_probe_at = True, now + timedelta(seconds=300)
            self._table.probes += 1
            return True

        return await called(self._wire, "key.take_probe", take)

    async def return_probe(self) -> None:
        def give() -> None:
            row = self._table.rows.get(self.key_id)
            if row is not None and row.probing:
                row.probing, row.next_probe_at = False, self._now()

        await called(self._wire, "key.return_probe", give)

    async def accepted(self) -> bool:
        return await called(
            self._wire, "key.accepted", lambda: self._table.rows.pop(self.key_id, None) is not None
        )
