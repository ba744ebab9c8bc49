"""An account with too little money for all its builds: they share each day, none starves, the day is never passed."""

import asyncio
import os
from collections import Counter

from tests.memory.deployment.money import reservations
from tests.memory.orchestrator.many_builds import ManyBuilds, on_a_virtual_clock, request

from nightshift.contracts.events.build import BuildReady, ModelCallResponded, Usage
from nightshift.contracts.model import PendingKind
from nightshift.orchestrator.domain.policy import Policy

A_DAY = 86_400.0
DOLLAR = 1_000_000


def spent_by_day(installation: ManyBuilds) -> list[Counter[str]]:
    """What each build spent on each day of the test's clock."""
    days: dict[int, Counter[str]] = {}
    for event in installation.history():
        if isinstance(event.data, ModelCallResponded):
            day = days.setdefault(event.recorded_at.day, Counter())
            day[event.subject] += event.data.cost_microusd
    return [days[day] for day in sorted(days)]


def test_three_builds_share_a_dollar_a_day_and_none_starves():
    """The worst case of a call is 0.37 dollars, so two run at once, and each call costs 0.03."""
    installation = ManyBuilds(
        beat_s=30.0,
        turns=20,
        replicas=1,
        policy=Policy(max_output_tokens=16_000),
        period_budget=30 * DOLLAR,
        usage=Usage(input_tokens=9_000, output_tokens=200),
    )
    builds = ["b0", "b1", "b2"]

    async def story(one: ManyBuilds) -> None:
        await one.accept(*(request(build_id) for build_id in builds))
        await asyncio.sleep(2.5 * A_DAY)

    on_a_virtual_clock(installation, story)
    history = installation.history()
    assert [fault for fault in reservations(history) if "never settled" not in fault] == []
    first = spent_by_day(installation)[0]
    assert sum(first.values()) <= DOLLAR
    assert min(first[build_id] for build_id in builds) >= DOLLAR // 10
    assert max(first.values()) <= 3 * min(first.values())
    ready = [event.subject for event in history if isinstance(event.data, BuildReady)]
    assert sorted(ready) == builds


def test_a_priority_build_gets_the_money_first():
    installation = ManyBuilds(
        turns=30,
        replicas=1,
        policy=Policy(max_output_tokens=16_000),
        period_budget=15 * DOLLAR,  # one call at a time
        usage=Usage(input_tokens=9_000, output_tokens=200),
    )

    async def story(one: ManyBuilds) -> None:
        await one.accept(request("b0"), request("b1"))
        await asyncio.sleep(20)
        await one.accept(request("b2", tier="priority"))
        await asyncio.sleep(1_800)

    on_a_virtual_clock(installation, story)
    [day] = spent_by_day(installation)
    assert day["b1"] == 0 < day["b2"]  # b1 has waited longer


def test_an_account_has_only_so_many_active_builds():
    installation = ManyBuilds(turns=2, replicas=2, per_account=3)
    seen: list[int] = []
    many = [request(f"b{number}", "many") for number in range(12)]

    async def story(one: ManyBuilds) -> None:
        await one.accept(*many, request("b99", "one"))
        for _ in range(60):
            await asyncio.sleep(2)
            running = set(one.pending(PendingKind.BUILD)) - set(one.pending(PendingKind.QUEUED))
            seen.append(len(running - {"b99"}))
            if len(seen) == 2:
                assert "b99" in running  # whoever has many builds does not delay the others

    on_a_virtual_clock(installation, story)
    assert max(seen) == 3
    ready = [event for event in installation.history() if isinstance(event.data, BuildReady)]
    assert len(ready) == 13


def test_a_burst_of_one_account_holds_up_no_other_and_all_are_built():
    """`make test-burst` tries 2,000 requests. Here the burst is smaller, with the same rules."""
    burst = int(os.environ.get("NIGHTSHIFT_BURST", "60"))
    installation = ManyBuilds(turns=0, replicas=2, capacity=40, per_account=20)
    greedy = [request(f"b{number}", "greedy", proof="none") for number in range(burst)]
    modest = [request(f"m{burst + number}", f"modest-{number}", proof="none") for number in range(10)]
    peaks: list[int] = []

    async def story(one: ManyBuilds) -> None:
        await one.accept(*greedy, *modest)
        accepted_at = asyncio.get_running_loop().time()
        await one.until(lambda: all(one.has_ended(each.build_id) for each in modest), within=600)
        assert asyncio.get_running_loop().time() - accepted_at < 120  # whatever the length of the burst
        assert not all(one.has_ended(each.build_id) for each in greedy)
        while not all(one.has_ended(each.build_id) for each in greedy):
            started = len(one.pending(PendingKind.BUILD)) - len(one.pending(PendingKind.QUEUED))
            peaks.append(started)
            await asyncio.sleep(one.beat_s)

    on_a_virtual_clock(installation, story)
    assert max(peaks) <= 20
    ready = Counter(one.subject for one in installation.history() if isinstance(one.data, BuildReady))
    assert ready == Counter(each.build_id for each in (*greedy, *modest))
