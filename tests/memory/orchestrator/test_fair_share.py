"""An account with too little money for all its builds: they share each day, none starves, the day is never passed."""

import asyncio
import os
from collections import Counter
from uuid import uuid4

from tests.memory.deployment.money import reservations
from tests.memory.orchestrator.many_builds import ManyBuilds, on_a_virtual_clock, request

from nightshift.contracts.events.build import BuildReady, ModelCallResponded, ModelCallStarted, Usage
from nightshift.contracts.events.requests import (
    BuildMessageSent,
    BuildPauseRequested,
    BuildRequested,
    BuildResumeRequested,
    ForkPoint,
)
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.port import RecordedEvent, build_stream
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


async def send(
    installation: ManyBuilds, data: BuildMessageSent | BuildPauseRequested | BuildResumeRequested
) -> None:
    """Deliver a request about a build to the first orchestrator."""
    cause, build_id = uuid4(), data.build_id
    event = RecordedEvent(
        *(cause, build_stream(build_id), 0, data, build_id, cause, "a person", None, installation.now())
    )
    await installation.orchestrators[0].on_requests()[type(data)](event)


def test_a_build_paused_in_the_queue_holds_up_no_other():
    installation = ManyBuilds(turns=2, replicas=2, per_account=1)
    builds = ["b0", "b1", "b2", "b3"]

    async def story(one: ManyBuilds) -> None:
        await one.accept(*map(request, builds))
        await send(one, BuildPauseRequested(build_id="b1"))
        await one.until(lambda: one.has_ended("b2"), within=600)
        assert "b1" in one.pending(PendingKind.QUEUED)
        await send(one, BuildResumeRequested(build_id="b1"))
        while not all(map(one.has_ended, builds)):
            assert len(one.pending(PendingKind.BUILD)) - len(one.pending(PendingKind.QUEUED)) <= 1
            await asyncio.sleep(1)

    on_a_virtual_clock(installation, story)


def test_forks_wait_in_the_queue_with_the_state_of_their_turn():
    installation = ManyBuilds(turns=3, replicas=2, per_account=1)
    seen: set[int] = set()

    def forked(build_id: str) -> BuildRequested:
        change = {"build_id": build_id, "base_build_id": "b0", "at": ForkPoint(turn=1)}
        return request("b0").model_copy(update=change)

    async def story(one: ManyBuilds) -> None:
        await one.accept(request("b0"))
        await one.until(lambda: one.has_ended("b0"), within=600)
        await one.accept(request("b1"), forked("b2"), forked("b3"))
        assert {"b2", "b3"} <= set(one.pending(PendingKind.QUEUED))
        await send(one, BuildMessageSent(build_id="b3", message="Make it blue."))
        while not all(map(one.has_ended, ("b1", "b2", "b3"))):
            seen.add(len(one.pending(PendingKind.BUILD)) - len(one.pending(PendingKind.QUEUED)))
            await asyncio.sleep(1)

    on_a_virtual_clock(installation, story)
    assert max(seen) == 1
    for build_id, told in (("b2", 1), ("b3", 2)):
        events = installation.events(build_id)
        kinds = [event.type for event in events]
        steered = ["agent.steered"] * told
        assert kinds[: 3 + told] == ["build.accepted", "build.forked", *steered, "build.phase_changed"]
        assert "build.ready" in kinds
        turns = [event.turn for event in events if isinstance(event, ModelCallStarted)]
        assert turns[0] == 2  # the turn after the fork's


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
