"""Processes are killed, builds sleep, stacks restart: every build becomes ready, and no call runs twice."""

import asyncio
import os
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.support.main_job import (
    DEMO_STEPS,
    SERVICES,
    MainJob,
    assert_ready,
    ended,
    has,
    of,
    told,
)
from tests.support.waiting import eventually

from nightshift.cli.commands.build import read_request
from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildWoken,
    SleepRequested,
)
from nightshift.eventlog.errors import Unavailable

pytestmark = [pytest.mark.timeout(150), pytest.mark.fault]

_KILLS = 30
#: Builds that run side by side while the killing goes on: so many of short steps, so many that sleep between steps
#: (unless a step takes until the next day), and so many that are the demo's own.
_LANES, _NIGHT_LANES, _DEMO_LANES = (0, 0, 8) if os.environ.get("NIGHTSHIFT_DEMO_LANES") else (5, 2, 1)
#: Microdollars of a day (of five seconds here): one step of a night costs too much for a second one.
_DAYS = {"night": 480_000, "demo": 600_000}
_DEMO_LINES = [f"step {number}: {step}" for number, step in enumerate(DEMO_STEPS, 1) if step is not None]
#: Seconds between two kills. Drawn: it is the fault that is timed here, nothing waits for it.
_BETWEEN = (0.1, 1.5)


@pytest.mark.long
async def test_thirty_kills_at_any_moment_and_every_build_becomes_ready(short_days: MainJob) -> None:
    seed = int(os.environ.get("NIGHTSHIFT_TEST_SEED") or random.randrange(2**32))
    print(f"NIGHTSHIFT_TEST_SEED={seed}")
    job, over = short_days, asyncio.Event()
    poor = [f"night-{number}" for number in range(_NIGHT_LANES)]
    poor += [f"demo-{number}" for number in range(_DEMO_LANES)]
    for account in poor:
        await job.open_account(account, day_microusd=_DAYS[account.partition("-")[0]])
    plan: list[tuple[int | Sequence[str], dict[str, Any]]] = [
        *[(8, {"brief": "steps among kills"})] * _LANES,
        *((3, {"brief": "nights among kills", "account": account}) for account in poor[:_NIGHT_LANES]),
        *((_DEMO_LINES, {**_demo(), "account": account}) for account in poor[_NIGHT_LANES:]),
    ]
    lanes = [asyncio.create_task(_lane(job, over, **asked)) for _, asked in plan]
    killing = asyncio.create_task(_kill(job, random.Random(seed), over))
    await asyncio.gather(killing, *lanes)
    assert set(killing.result()) >= {*SERVICES, "kafka", "postgres"}
    builds = {build: steps for (steps, _), lane in zip(plan, lanes, strict=True) for build in lane.result()}
    slept = 0
    for build_id, steps in builds.items():
        events = await job.events(build_id)
        assert_ready(job, build_id, events, steps=steps)
        slept += len(of(events, SleepRequested))
    print(f"{len(builds)} builds, {slept} sleeps; killed in this order: {killing.result()}")


def _demo() -> dict[str, Any]:
    """The request of the demo."""
    idea = read_request(Path("examples/ideas/tool-library.yaml"))
    rest = {name: value for name, value in idea.items() if name not in ("idea_brief", "project_id")}
    return {"brief": idea["idea_brief"], **rest}


async def test_a_build_wakes_at_each_new_day_and_is_ready(short_days: MainJob) -> None:
    # A step costs more than half of a day's money. A day that ends during a step saves a night, on a slow machine.
    job = short_days
    await job.open_account("nights", day_microusd=480_000)
    build_id = await job.ask("four nights", account="nights")
    events = await job.until(build_id, ended, 100, what="ended")
    assert_ready(job, build_id, events, steps=5)
    reasons = [woken.reason for woken in of(events, BuildWoken)]
    assert len(reasons) == len(of(events, SleepRequested)), told(events)
    assert "refresh" in reasons, told(events)


async def _kill(job: MainJob, draw: random.Random, over: asyncio.Event) -> list[str]:
    """Kills every service often, the broker and the database once; another process where one is dead already."""
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
    """Kills the first of these processes that runs. Does nothing when all are being restarted."""
    for name in names:
        process = job.process(name)
        if process is not None:
            process.kill()
            return name
    return None


async def _lane(job: MainJob, over: asyncio.Event, **asked: Any) -> list[str]:
    """Runs one build after the other until the kills are over. Returns the ids of all."""
    builds = []
    while not over.is_set():
        builds.append(await _accepted(job, **asked))
        await job.until(builds[-1], ended, 100, what="ended")
    return builds


async def _accepted(job: MainJob, **asked: Any) -> str:
    """Sends a request until the log has it, because a broker that died may have lost it."""
    build_id = f"kill-{uuid4().hex[:10]}"
    while True:
        try:
            await job.ask(**asked, build_id=build_id)
            await job.until(build_id, has(BuildAccepted), 5, what="accepted", promised=True)
        except (Unavailable, AssertionError):
            continue
        return build_id
