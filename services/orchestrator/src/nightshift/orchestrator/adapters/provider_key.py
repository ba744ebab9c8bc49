"""What all replicas with the same provider key know about this key: rows of `provider_keys` and `provider_paces`.

All times come from the database's clock.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from nightshift.eventlog.database import Database
from nightshift.orchestrator.ports import RefusedKey, SharedPace
from nightshift.orchestrator.usecases.call_pace import PaceSettings

#: Seconds in which nobody else tries the key. This is longer than a call may stay silent.
_HOLD_S = 300.0
_READ = """
SELECT kind, status, detail, refused_at, nullif(split_part(key_id, '/', 2), '') FROM nightshift.provider_keys
WHERE split_part(key_id, '/', 1) = $1 AND refused_at IS NOT NULL ORDER BY key_id"""
_PACE = """
SELECT interval_s, greatest(extract(epoch FROM paused_until - clock_timestamp()), 0)::double precision
FROM nightshift.provider_paces WHERE key_id = $1"""


def key_id_of(key: str, base_url: str | None) -> str:
    """Return twelve hexadecimal digits that identify the key at the provider with this URL, and do not reveal it."""
    return sha256(f"{base_url or ''}\n{key}".encode()).hexdigest()[:12]


class PostgresProviderKey:
    """The port ProviderKey over PostgreSQL.

    After the first refusal, the next probe may start `first_probe_s` seconds later. Each further refusal makes this
    wait longer, up to `longest_probe_s`.
    """

    def __init__(
        self,
        database: Database,
        key_id: str,
        *,
        first_probe_s: float,
        longest_probe_s: float,
        pace: PaceSettings | None = None,
    ) -> None:
        self._database = database
        self.key_id = key_id
        self._first_s = first_probe_s
        self._longest_s = longest_probe_s
        self._settings = pace or PaceSettings()

    async def refused(self) -> Sequence[RefusedKey]:
        """Return the refusals of the key that are not over, at most one for each model, with their reasons.

        Returns an empty list while the provider accepts the key.
        """
        return [RefusedKey(*row) for row in await self._database.fetch(_READ, self.key_id)]

    async def refuse(self, refused: RefusedKey) -> bool:
        """Record that the provider refuses the key.

        An incident begins with a refusal and lasts until the provider accepts the key again. Returns True for the first
        record of an incident, and False for later ones.
        """
        first, longest = timedelta(seconds=self._first_s), timedelta(seconds=self._longest_s)
        return await self._ask(
            "SELECT nightshift.refuse_provider_key($1, $2, $3, $4, $5, $6)",
            self._row(refused.model),
            *(refused.kind, refused.status, refused.detail, first, longest),
        )

    async def take_probe(self, model: str | None = None) -> bool:
        """Return True when it is time to try the refused key again and this caller must do it.

        Returns False before that time, and to all other callers of all replicas.
        """
        hold = timedelta(seconds=_HOLD_S)
        return await self._ask("SELECT nightshift.take_provider_probe($1, $2)", self._row(model), hold)

    async def return_probe(self, model: str | None = None) -> None:
        """Give back a probe whose call was not made, so that another caller can take the probe at once."""
        await self._ask("SELECT nightshift.return_provider_probe($1)", self._row(model))

    async def accepted(self, model: str | None = None) -> bool:
        """Record that the provider accepts the key.

        Returns True when this ends an incident, and False when no refusal was on record.
        """
        return await self._ask("SELECT nightshift.accept_provider_key($1)", self._row(model))

    async def pace(self) -> SharedPace:
        """Return how fast all replicas together may start calls with this key."""
        rows = await self._database.fetch(_PACE, self.key_id)
        return SharedPace(*rows[0]) if rows else SharedPace()

    async def slow_down(self, started_at: datetime, pause_s: float, *, spaced: bool) -> SharedPace:
        """Let no replica start a call for `pause_s` seconds. If `spaced`, double the interval between later calls.

        `started_at` is the start of the call whose answer or refusal is the reason.
        """
        await self._ask(
            "SELECT nightshift.slow_provider_calls($1, $2, $3, $4, $5, $6, $7)",
            self.key_id,
            started_at,
            datetime.now(UTC),
            timedelta(seconds=pause_s),
            spaced,
            self._settings.first_interval_s,
            self._settings.longest_interval_s,
        )
        return await self.pace()

    async def quicken(self) -> SharedPace:
        """Make the interval between calls shorter by a fifth, because a call was answered."""
        shortest = self._settings.shortest_interval_s
        await self._ask("SELECT nightshift.quicken_provider_calls($1, $2)", self.key_id, shortest)
        return await self.pace()

    async def take_turn(self) -> float:
        """Return 0.0 when a model call may start now, and the caller must start it. Else return the seconds to wait."""
        rows = await self._database.fetch("SELECT nightshift.take_provider_turn($1)", self.key_id)
        return float(rows[0][0])

    def _row(self, model: str | None) -> str:
        return self.key_id if model is None else f"{self.key_id}/{model}"

    async def _ask(self, statement: str, *values: object) -> bool:
        return bool((await self._database.fetch(statement, *values))[0][0])
