"""Processes die, nights fall, everything is started again: every build becomes ready, and nothing is done twice."""

import asyncio
import os
import random
from collections.abc import Sequence
from uuid import uuid4

import pytest
from tests.support.main_job import (
    SERVICES,
    MainJob,
    assert_in_order,
    assert_ready,
    ended,
    has,
    of,
    standing,
    told,
)

from nightshift.contracts.events.budget import WakeRequested
from nightshift.contracts.events.build import (
    AgentSteered,
    BuildAccepted,
    BuildWoken,
    ModelCallFailed,
    ModelCallStarted,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.sandbox import SandboxClosed, SandboxLost, SandboxRestored
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.runtime.errors import Unavailable
from nightshift.runtime.log.port import RecordedEvent

pytestmark = [pytest.mark.timeout(150), pytest.mark.fault, pytest.mark.xdist_group("main-job-survival")]

_KILLS = 30
#: Builds that run side by side while the killing goes on.
_LANES = 10
#: Seconds between two kills. Drawn: it is the fault that is timed here, nothing waits for it.
_BETWEEN = (0.2, 1.8)


async def test_thirty_kills_at_any_moment_and_every_build_becomes_ready(short_days: MainJob) -> None:
    seed = int(os.environ.get("NIGHTSHIFT_TEST_SEED") or random.randrange(2**32))
    print(f"NIGHTSHIFT_TEST_SEED={seed}")
    over = asyncio.Event()
    lanes = [asyncio.create_task(_lane(short_days, over)) for _ in range(_LANES)]
    killing = asyncio.create_task(_kill(short_days, random.Random(seed), over))
    await asyncio.gather(killing, *lanes)
    builds = [build_id for lane in lanes for build_id in lane.result()]
    print(f"{len(builds)} builds; killed in this order: {killing.result()}")
    assert set(killing.result()) >= {*SERVICES, "kafka", "postgres"}
    for build_id in builds:
        assert_ready(short_days, build_id, await short_days.events(build_id), steps=8)


async def test_a_build_sleeps_and_wakes_three_times_and_is_ready(short_days: MainJob) -> None:
    # A step costs a day's money. Should a day end in the middle of a step there is one night less: so there are four.
    job = short_days
    await job.open_account("nights", day_microusd=480_000)
    build_id = await job.ask("four nights", account="nights")
    events = await job.until(build_id, ended, 50, what="ended")
    assert_ready(job, build_id, events, steps=5)
    order = (SleepRequested, SnapshotSaved, SandboxClosed, WakeRequested, BuildWoken, SandboxRestored)
    nights = [
        type(event.data)
        for event in events
        if isinstance(event.data, order) and getattr(event.data, "reason", "") != "checkpoint"
    ]
    assert len(nights) >= 3 * len(order)
    assert nights == list(order) * (len(nights) // len(order))


async def test_builds_go_on_after_a_restart_of_everything(short_days: MainJob) -> None:
    job = short_days
    await job.open_account("sleeper", day_microusd=480_000)
    thinking = await job.ask("a slow answer")
    working = [await job.ask("plain steps, around a restart") for _ in range(2)]
    asleep = await job.ask("one night", account="sleeper")
    await job.until(thinking, has(ModelCallStarted), what="thinking")
    for build_id in working:
        await job.until(build_id, has(ToolCallRequested, times=3), what="at work")
    await job.until(asleep, has(SleepRequested), what="asleep")
    before = {build_id: len(await job.events(build_id)) for build_id in (*working, asleep)}
    await asyncio.to_thread(job.restart)
    for build_id in (*working, asleep):
        events = await job.until(build_id, ended, 45, what="ended")
        assert len(events) > before[build_id]
        if build_id == asleep:  # its files were safe in the object store
            assert_ready(job, build_id, events, steps=3)
        else:
            _assert_ready_but_for_what_was_lost(job, build_id, events)
    # A call that the restart cut is paid for, and made again.
    again = await job.until(thinking, has(ModelCallStarted, times=2), what="thinking again")
    assert [failed.kind for failed in of(again, ModelCallFailed)] == ["abandoned"]
    assert_in_order(again)


def _assert_ready_but_for_what_was_lost(job: MainJob, build_id: str, events: Sequence[RecordedEvent]) -> None:
    """A local sandbox ends with the stack: what no snapshot had is gone, and the agent was told. Nothing came twice."""
    assert standing(build_id, events).status == "ready"
    assert_in_order(events)
    lines = job.steps(build_id, events)
    assert lines == sorted(set(lines))
    missing = {f"step {number}" for number in range(8)} - set(lines)
    assert len(missing) <= 2, told(events)
    if missing:
        assert has(SandboxLost)(events), told(events)
        assert "sandbox_restored" in {steered.reason for steered in of(events, AgentSteered)}


async def _kill(job: MainJob, draw: random.Random, over: asyncio.Event) -> list[str]:
    """Every service often, the broker and the database once; when one is dead already, another."""
    plan = [*SERVICES, *draw.choices(SERVICES, k=_KILLS - len(SERVICES) - 2), "kafka", "postgres"]
    draw.shuffle(plan)
    killed = []
    try:
        for name in plan:
            await asyncio.sleep(draw.uniform(*_BETWEEN))
            killed.append(_kill_one(job, [name, *draw.sample(SERVICES, len(SERVICES))]))
    finally:
        over.set()
    return killed


def _kill_one(job: MainJob, names: list[str]) -> str:
    for name in names:
        process = job.process(name)
        if process is not None:
            process.kill()
            return name
    raise AssertionError(f"none of {names} lives")


async def _lane(job: MainJob, over: asyncio.Event) -> list[str]:
    """One build after the other until the killing is over; the ids of all."""
    builds = []
    while not over.is_set():
        builds.append(await _accepted(job))
        await job.until(builds[-1], ended, 100, what="ended")
    return builds


async def _accepted(job: MainJob) -> str:
    """Ask for a build until the log has it, as a producer must: a broker that died may have forgotten it."""
    build_id = f"kill-{uuid4().hex[:10]}"
    while True:
        try:
            await job.ask("plain steps, among kills", build_id=build_id)
            await job.until(build_id, has(BuildAccepted), 5, what="accepted")
        except (Unavailable, AssertionError):
            continue
        return build_id
