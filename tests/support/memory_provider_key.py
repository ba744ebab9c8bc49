"""What replicas know about the provider's key, in memory. It passes the conformance suite of the port."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from nightshift.eventlog.wire import Wire, called
from nightshift.orchestrator.ports import RefusedKey, SharedPace
from nightshift.orchestrator.usecases.call_pace import PaceSettings


@dataclass(slots=True)
class KeyRow:
    """A row of the table `provider_keys`."""

    refused: RefusedKey
    next_probe_at: datetime
    refusals: int = 0
    probing: bool = False


@dataclass(slots=True)
class PaceRow:
    """A row of the table `provider_paces`."""

    paused_until: datetime
    next_at: datetime
    interval_s: float = 0.0
    slowed_at: datetime | None = None


@dataclass(slots=True)
class KeyTable:
    """The tables `provider_keys` and `provider_paces`, which replicas share. `incidents` counts them by key."""

    rows: dict[str, KeyRow] = field(default_factory=dict)
    paces: dict[str, PaceRow] = field(default_factory=dict)
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
        self._pace = PaceSettings()

    async def refused(self) -> Sequence[RefusedKey]:
        def read() -> Sequence[RefusedKey]:
            mine = sorted(name for name in self._table.rows if name.partition("/")[0] == self.key_id)
            return [self._table.rows[name].refused for name in mine]

        return await called(self._wire, "key.refused", read)

    async def refuse(self, refused: RefusedKey) -> bool:
        def write() -> bool:
            name, now = self._name(refused.model), self._now()
            row = self._table.rows.get(name)
            if row is None:
                # The real table notes the time by the database's clock.
                self._table.rows[name] = KeyRow(
                    replace(refused, since=now), now + timedelta(seconds=self._first)
                )
                self._table.incidents[name] = self._table.incidents.get(name, 0) + 1
                return True
            if row.probing:
                wait = min(self._longest, self._first * 2 ** (row.refusals + 1))
                self._table.rows[name] = KeyRow(
                    replace(refused, since=row.refused.since),
                    now + timedelta(seconds=wait),
                    row.refusals + 1,
                )
            return False

        return await called(self._wire, "key.refuse", write)

    async def take_probe(self, model: str | None = None) -> bool:
        def take() -> bool:
            row, now = self._table.rows.get(self._name(model)), self._now()
            if row is None or row.next_probe_at > now:
                return False
            row.probing, row.next_probe_at = True, now + timedelta(seconds=300)
            self._table.probes += 1
            return True

        return await called(self._wire, "key.take_probe", take)

    async def return_probe(self, model: str | None = None) -> None:
        def give() -> None:
            row = self._table.rows.get(self._name(model))
            if row is not None and row.probing:
                row.probing, row.next_probe_at = False, self._now()

        await called(self._wire, "key.return_probe", give)

    async def accepted(self, model: str | None = None) -> bool:
        name = self._name(model)
        return await called(self._wire, "key.accepted", lambda: self._table.rows.pop(name, None) is not None)

    async def pace(self) -> SharedPace:
        return await called(self._wire, "key.pace", self._shared)

    async def slow_down(self, started_at: datetime, pause_s: float, *, spaced: bool) -> SharedPace:
        def slow() -> SharedPace:
            now = self._now()
            row = self._table.paces.setdefault(self.key_id, PaceRow(now, now))
            row.paused_until = max(row.paused_until, now + timedelta(seconds=pause_s))
            if spaced and (row.slowed_at is None or row.slowed_at < started_at):
                doubled = max(row.interval_s * 2, self._pace.first_interval_s)
                row.interval_s, row.slowed_at = min(doubled, self._pace.longest_interval_s), now
            return self._shared()

        return await called(self._wire, "key.slow_down", slow)

    async def quicken(self) -> SharedPace:
        def quicken() -> SharedPace:
            if (row := self._table.paces.get(self.key_id)) is not None:
                row.interval_s *= 0.8
                if row.interval_s < self._pace.shortest_interval_s:
                    row.interval_s = 0.0
            return self._shared()

        return await called(self._wire, "key.quicken", quicken)

    async def take_turn(self) -> float:
        def take() -> float:
            row, now = self._table.paces.get(self.key_id), self._now()
            if row is None:
                return 0.0
            at = max(row.next_at, row.paused_until)
            if at > now:
                return max((at - now).total_seconds(), 0.01)
            row.next_at = now + timedelta(seconds=row.interval_s)
            return 0.0

        return await called(self._wire, "key.take_turn", take)

    def _shared(self) -> SharedPace:
        row = self._table.paces.get(self.key_id)
        if row is None:
            return SharedPace()
        return SharedPace(row.interval_s, max((row.paused_until - self._now()).total_seconds(), 0.0))

    def _name(self, model: str | None) -> str:
        return self.key_id if model is None else f"{self.key_id}/{model}"
