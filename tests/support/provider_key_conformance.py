"""The behaviour that every adapter of the orchestrator's port ProviderKey must have."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from nightshift.orchestrator.ports import ProviderKey, RefusedKey

REFUSED = RefusedKey("auth", 401, "key k: invalid x-api-key", datetime(2026, 1, 1, tzinfo=UTC))


class ProviderKeyConformance:
    """Needs the fixtures `key` and `other` (two replicas with one key), and `foreign` (another key).

    They wait half an hour for a probe. `impatient` has the same key as `key` and does not wait.
    """

    async def test_a_new_key_is_not_refused_and_needs_no_probe(self, key: ProviderKey):
        assert list(await key.refused()) == []
        assert await key.take_probe() is False
        assert await key.accepted() is False
        await key.return_probe()

    async def test_the_first_refusal_is_the_incident_for_every_replica(
        self, key: ProviderKey, other: ProviderKey, foreign: ProviderKey
    ):
        noted = await asyncio.gather(*(one.refuse(REFUSED) for one in [key, other] * 5))
        assert sum(noted) == 1
        [seen] = await other.refused()
        assert (seen.kind, seen.status, seen.detail) == (REFUSED.kind, REFUSED.status, REFUSED.detail)
        assert list(await foreign.refused()) == []

    async def test_one_probe_is_made_at_a_time(
        self, key: ProviderKey, other: ProviderKey, impatient: ProviderKey
    ):
        await impatient.refuse(REFUSED)
        assert await _probes(key, other) == 1
        assert await _probes(key, other) == 0
        await other.return_probe()
        assert await _probes(key, other) == 1

    async def test_no_probe_is_made_before_its_time(self, key: ProviderKey, other: ProviderKey):
        await key.refuse(REFUSED)
        assert await _probes(key, other) == 0

    async def test_a_refused_probe_waits_longer_and_is_no_new_incident(
        self, key: ProviderKey, impatient: ProviderKey
    ):
        await impatient.refuse(REFUSED)
        assert await impatient.take_probe()
        assert await key.refuse(RefusedKey("credit", 402, "key k: none left", REFUSED.since)) is False
        assert await impatient.take_probe() is False
        [refused] = await impatient.refused()
        assert (refused.kind, refused.detail) == ("credit", "key k: none left")

    async def test_an_accepted_key_ends_the_incident_once(self, key: ProviderKey, other: ProviderKey):
        await key.refuse(REFUSED)
        ended = await asyncio.gather(*(one.accepted() for one in [key, other] * 5))
        assert sum(ended) == 1
        assert list(await key.refused()) == []
        assert await key.take_probe() is False
        assert await other.refuse(REFUSED) is True

    async def test_a_key_refused_for_one_model_is_good_for_others(
        self, key: ProviderKey, other: ProviderKey, impatient: ProviderKey
    ):
        for_one = replace(REFUSED, status=403, model="m1")
        assert await impatient.refuse(for_one) is True
        assert await other.refuse(replace(for_one, model="m2")) is True
        assert [one.model for one in await key.refused()] == ["m1", "m2"]
        assert await key.take_probe() is False
        assert await other.take_probe("m1") is True
        assert await key.accepted() is False
        assert await key.accepted("m1") is True
        assert [one.model for one in await key.refused()] == ["m2"]

    async def test_replicas_take_turns_while_the_provider_has_no_room(
        self, key: ProviderKey, other: ProviderKey, foreign: ProviderKey
    ):
        assert await key.take_turn() == 0.0
        started = datetime.now(UTC)
        await asyncio.gather(*(one.slow_down(started, 0.0, spaced=True) for one in [key, other] * 5))
        assert (await other.pace()).interval_s == 0.25  # they were in flight together
        turns = await asyncio.gather(*(one.take_turn() for one in [key, other] * 5))
        assert turns.count(0.0) == 1
        assert all(0 < wait <= 0.25 for wait in turns if wait)
        assert await foreign.take_turn() == 0.0

    async def test_a_pause_and_each_answer_reach_every_replica(self, key: ProviderKey, other: ProviderKey):
        await key.slow_down(datetime.now(UTC), 60.0, spaced=False)
        seen = await other.pace()
        assert seen.interval_s == 0.0
        assert 50 < seen.pause_s <= 60
        assert 50 < await other.take_turn() <= 60
        await key.slow_down(datetime.now(UTC), 0.0, spaced=True)
        for _ in range(40):
            await other.quicken()
        assert (await key.pace()).interval_s == 0.0


async def _probes(*keys: ProviderKey) -> int:
    """How many of several callers at once may try the key."""
    return sum(await asyncio.gather(*(one.take_probe() for one in keys * 3)))
