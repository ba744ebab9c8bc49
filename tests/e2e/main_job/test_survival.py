"""Processes die, nights fall, everything is started again: every build becomes ready, and nothing is done twice."""

import asyncio
import os
import random
from functools import partial
from uuid import uuid4

import pytest
from tests.support.main_job import (
    SERVICES,
    MainJob,
    assert_ready,
    ended,
    has,
)
from tests.support.waiting import eventually

from nightshift.contracts.events.budget import WakeRequested
from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildWoken,
    SleepRequested,
)
from nightshift.contracts.events.sandbox import SandboxClosed, SandboxRestored
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.runtime.errors import Unavailable

pytestmark = [pytest.mark.timeout(150), pytest.mark.fault]

_KILLS = 30
#: Builds that run side by side while the killing goes on.
_LANES = 8
#: Seconds between two kills. Drawn: it is the fault that is timed here, nothing waits for it.
_BETWEEN = (0.1, 1.5)


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
    events = await job.until(build_id, ended, 100, what="ended")
    assert_ready(job, build_id, events, steps=5)
    order = (SleepRequested, SnapshotSaved, SandboxClosed, WakeRequested, BuildWoken, SandboxRestored)
    nights = [
        type(event.data)
        for event in events
        if isinstance(event.data, order) and getattr(event.data, "reason", "") != "checkpoint"
    ]
    assert len(nights) >= 3 * len(order)
    assert nights == list(order) * (len(nights) // len(order))


async def _kill(job: MainJob, draw: random.Random, over: asyncio.Event) -> list[str]:
    """Every service often, the broker and the database once; when one is dead already, another."""
    plan = [*SERVICES, *draw.choices(SERVICES, k=_KILLS - len(SERVICES) - 2), "kafka", "postgres"]
    draw.shuffle(plan)
    killed = []
    try:
        for name in plan:
            await asyncio.sleep(draw.uniform(*_BETWEEN))
            names = [name, *draw.sample(SERVICES, len(SERVICES))]
            killed.append(await eventually(partial(_kill_one, job, names), 30, what=f"one of {names}"))
    finally:
        over.set()
    return killed


def _kill_one(job: MainJob, names: list[str]) -> str | None:
    """Kill the first of these that lives; nothing when all of them are between two lives."""
    for name in names:
        process = job.process(name)
        if process is not None:
            process.kill()
            return name
    return None


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
            await job.ask("steps among kills", build_id=build_id)
            await job.until(build_id, has(BuildAccepted), 5, what="accepted")
        except (Unavailable, AssertionError):
            continue
        return build_id
