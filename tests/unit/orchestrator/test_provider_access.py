"""The pace of a key's calls while the table of all replicas is away."""

from datetime import UTC, datetime

import pytest
from tests.support.memory_provider_key import KeyTable, MemoryProviderKey

from nightshift.eventlog.errors import Unavailable
from nightshift.orchestrator.domain.commands import CallFailed
from nightshift.orchestrator.ports import SharedPace, UsageMeter
from nightshift.orchestrator.usecases.provider_access import ProviderAccess

NOW = datetime(2026, 11, 22, tzinfo=UTC)
OVERLOADED = CallFailed("overloaded", "busy", status=529)


class Away(MemoryProviderKey):
    """Raises Unavailable for each write of the pace."""

    async def slow_down(self, started_at: datetime, pause_s: float, *, spaced: bool) -> SharedPace:
        raise Unavailable("PostgreSQL is away")


@pytest.mark.parametrize("kind", [MemoryProviderKey, Away])
async def test_calls_stay_spaced_after_a_429_although_the_table_is_away(
    kind: type[MemoryProviderKey],
) -> None:
    access = ProviderAccess(kind(KeyTable(), "k", now=lambda: NOW), clock=lambda: NOW)
    meter = UsageMeter()
    await access.note(OVERLOADED, meter, model="m", started_at=NOW, now=NOW)
    interval_s = access._pace.interval_s
    assert interval_s > 0
    await access.refresh()
    assert access._pace.interval_s == interval_s
