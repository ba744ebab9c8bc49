"""A provider that refuses a key or has no room: all builds wait together, none fails, and all go on by themselves."""

import asyncio
from itertools import pairwise

from tests.memory.orchestrator.many_builds import ManyBuilds, on_a_virtual_clock, request
from tests.support import build_invariants

from nightshift.contracts.events.build import BuildReady, BuildWaiting, ModelCallFailed, ModelCallStarted
from nightshift.contracts.model import PendingKind
from nightshift.orchestrator.domain.commands import CallFailed

BUILDS = [f"b{number}" for number in range(30)]
TWO_HOURS = 7_200.0
INVALID = CallFailed("auth", "invalid x-api-key", status=401)


def test_thirty_builds_wait_for_a_key_and_all_go_on_with_the_next():
    """The key expires in the middle of the builds and is replaced two hours later."""
    installation = ManyBuilds(turns=1)
    expired = asyncio.Event()
    installation.refuse = lambda: INVALID if expired.is_set() else None

    def has_called(build_id: str) -> bool:
        return any(isinstance(event, ModelCallStarted) for event in installation.events(build_id))

    async def story(one: ManyBuilds) -> None:
        await one.accept(*map(request, BUILDS))
        await one.until(lambda: all(map(has_called, BUILDS)), within=60)
        expired.set()
        await asyncio.sleep(60)
        assert sorted(one.pending(PendingKind.PROVIDER)) == sorted(BUILDS)
        assert all(access.refused is not None for access in one.accesses)
        calls, probes = one.calls, one.keys.probes
        await asyncio.sleep(TWO_HOURS)
        assert one.calls - calls == one.keys.probes - probes < 15  # the only calls in two hours
        assert len(one.pending(PendingKind.PROVIDER)) >= len(BUILDS) - 1  # one may try right now
        expired.clear()
        await asyncio.sleep(1_200)

    on_a_virtual_clock(installation, story)
    assert installation.keys.incidents == {"k1": 1}
    for build_id in BUILDS:
        events = installation.events(build_id)
        assert any(isinstance(event, BuildReady) for event in events), build_id
        assert build_invariants.violations(events) == []
        failed = [event for event in events if isinstance(event, ModelCallFailed)]
        waits = [event for event in events if isinstance(event, BuildWaiting)]
        assert waits, build_id
        assert len(waits) <= 2  # no build bears all the probes
        assert all("key k1: invalid x-api-key" in wait.detail for wait in waits)
        assert sum(event.cost_microusd for event in failed) == 0


def test_a_provider_without_room_slows_all_builds_together():
    installation, builds = ManyBuilds(turns=1, replicas=1), BUILDS[:15]
    times: list[float] = []

    def refuse() -> CallFailed | None:
        now = asyncio.get_running_loop().time()
        times.append(now)
        return CallFailed("rate_limited", "slow down", status=429, retry_after_s=30.0) if now < 600 else None

    installation.refuse = refuse

    async def story(one: ManyBuilds) -> None:
        await one.accept(*map(request, builds))
        await asyncio.sleep(1_800)

    on_a_virtual_clock(installation, story)
    ready = [event.subject for event in installation.history() if isinstance(event.data, BuildReady)]
    assert sorted(ready) == sorted(builds)
    early = sorted(time for time in times if 100 < time < 600)
    assert len(early) < 50  # builds that each tried for themselves would have made 250 calls
    assert all(later - earlier >= 0.2 for earlier, later in pairwise(early))
