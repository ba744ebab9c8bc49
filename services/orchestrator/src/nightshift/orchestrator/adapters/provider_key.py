"""What all replicas with one key know about it: a row of the table `provider_keys`, by the database's clock."""

from datetime import timedelta
from hashlib import sha256

from nightshift.eventlog.database import Database
from nightshift.orchestrator.ports import RefusedKey

#: Seconds in which nobody else tries the key, longer than a call may stay silent.
_HOLD_S = 300.0
_READ = """
SELECT kind, status, detail, refused_at FROM nightshift.provider_keys WHERE key_id = $1 AND refused_at IS NOT NULL"""


def key_id_of(key: str, base_url: str | None) -> str:
    """Return twelve hex digits that name a key at one provider."""
    return sha256(f"{base_url or ''}\n{key}".encode()).hexdigest()[:12]


class PostgresProviderKey:
    """Implements the port ProviderKey. The first probe follows a refusal after `first_probe_s` seconds."""

    def __init__(
        self, database: Database, key_id: str, *, first_probe_s: float, longest_probe_s: float
    ) -> None:
        self._database = database
        self.key_id = key_id
        self._first_s = first_probe_s
        self._longest_s = longest_probe_s

    async def refused(self) -> RefusedKey | None:
        """Return why the provider refuses the key. Returns None while it does not."""
        rows = await self._database.fetch(_READ, self.key_id)
        return RefusedKey(*rows[0]) if rows else None

    async def refuse(self, refused: RefusedKey) -> bool:
        """Note that the provider refuses the key. Returns True for the first note of the incident only."""
        first, longest = timedelta(seconds=self._first_s), timedelta(seconds=self._longest_s)
        return await self._ask(
            "SELECT nightshift.refuse_provider_key($1, $2, $3, $4, $5, $6)",
            *(refused.kind, refused.status, refused.detail, first, longest),
        )

    async def take_probe(self) -> bool:
        """Return True to one caller over all replicas when it is time to try the refused key again."""
        return await self._ask("SELECT nightshift.take_provider_probe($1, $2)", timedelta(seconds=_HOLD_S))

    async def return_probe(self) -> None:
        """Return a probe that was not made, so that another one may be made at once."""
        await self._ask("SELECT nightshift.return_provider_probe($1)")

    async def accepted(self) -> bool:
        """Note that the provider accepts the key. Returns True for the note that ends the incident only."""
        return await self._ask("SELECT nightshift.accept_provider_key($1)")

    async def _ask(self, statement: str, *values: object) -> bool:
        rows = await self._database.fetch(statement, self.key_id, *values)
        return bool(rows[0][0])
