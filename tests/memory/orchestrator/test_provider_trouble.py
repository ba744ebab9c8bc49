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
    installation.refuse = lambda body: INVALID if expired.is_set() else None

    def has_called(build_id: str) -> bool:
        return any(isinstance(event, ModelCallStarted) for event in installation.events(build_id))

    async def story(one: ManyBuilds) -> None:
        await one.accept(*map(request, BUILDS))
        await one.until(lambda: all(map(has_called, BUILDS)), within=60)
        expired.set()
        await asyncio.sleep(60)
        assert sorted(one.pending(PendingKind.PROVIDER)) == sorted(BUILDS)
        assert all(access.refusals for access in one.accesses)
        calls, probes = one.calls, one.keys.probes
        await asyncio.sleep(TWO_HOURS)
        assert one.calls - calls == one.keys.probes - probes < 15  # the only calls in two hours
        assert len(one.pending(PendingKind.PROVIDER)) >= len(BUILDS) - 1  # one may try right now
        expired.clear()
        await asyncio.sleep(1_200)

    on_a_virtual_clock(installation, story)
    assert installation.keys.incidents == {"k1": 1}
    told = [one.data for one in installation.history() if one.data.type.startswith("provider.")]
    assert [one.type for one in told] == ["provider.blocked", "provider.recovered"]
    assert {one.since for one in told} == {told[0].since}
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
    installation, builds = ManyBuilds(turns=1, replicas=2, capacity=8), BUILDS[:15]
    times: list[float] = []

    def refuse(body: bytes) -> CallFailed | None:
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


def test_builds_go_on_by_themselves_with_a_key_of_another_name():
    """The key is replaced as one replaces it: in the settings, with a restart of the orchestrators."""
    installation, builds = ManyBuilds(turns=1), BUILDS[:4]
    installation.refuse = lambda body: INVALID if installation.key_id == "k1" else None

    async def story(one: ManyBuilds) -> None:
        await one.accept(*map(request, builds))
        await one.until(lambda: len(one.pending(PendingKind.PROVIDER)) == len(builds), within=120)
        await asyncio.sleep(600.0)
        one.key_id = "k2"
        async with asyncio.TaskGroup() as group:
            tasks = await one.restart(group)
            await one.until(lambda: all(map(one.has_ended, builds)), within=600)
            for task in tasks:
                task.cancel()

    on_a_virtual_clock(installation, story)
    for build_id in builds:
        events = installation.events(build_id)
        assert any(isinstance(event, BuildReady) for event in events), build_id
        assert build_invariants.violations(events) == []


def test_a_key_refused_for_one_model_stops_only_its_builds():
    installation = ManyBuilds(turns=1)
    forbidden = CallFailed("auth", "Your API key may not use this model.", status=403)
    allowed = asyncio.Event()
    installation.refuse = lambda body: (
        None if allowed.is_set() or b'"model":"claude-haiku-4-5"' not in body else forbidden
    )
    stopped, free = BUILDS[:3], BUILDS[3:6]

    async def story(one: ManyBuilds) -> None:
        await one.accept(*(request(build_id, model="claude-haiku-4-5") for build_id in stopped))
        await one.until(lambda: len(one.pending(PendingKind.PROVIDER)) == len(stopped), within=120)
        await one.accept(*map(request, free))
        await one.until(lambda: all(map(one.has_ended, free)), within=300)
        calls, probes = one.calls, one.keys.probes
        await asyncio.sleep(600.0)
        assert one.calls - calls == one.keys.probes - probes < 8
        allowed.set()
        await one.until(lambda: all(map(one.has_ended, stopped)), within=1_200)

    on_a_virtual_clock(installation, story)
    assert installation.keys.incidents == {"k1/claude-haiku-4-5": 1}
    told = [one.data for one in installation.history() if one.data.type.startswith("provider.")]
    assert [(one.type, one.model) for one in told] == [
        ("provider.blocked", "claude-haiku-4-5"),
        ("provider.recovered", "claude-haiku-4-5"),
    ]
    for build_id in (*stopped, *free):
        assert any(isinstance(event, BuildReady) for event in installation.events(build_id)), build_id
