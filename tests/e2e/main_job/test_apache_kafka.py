"""The main job on Apache Kafka, with idempotent producers and its rebalances."""

import pytest
from tests.support.main_job import RICH, SERVICES, MainJob, assert_ready, ended, has
from tests.support.waiting import eventually

from nightshift.contracts.events.sandbox import ToolCallCompleted

pytestmark = [pytest.mark.kafka, pytest.mark.fault, pytest.mark.timeout(240)]


async def test_a_build_is_ready_though_every_service_is_killed(
    job_on_kafka: MainJob,
) -> None:
    job = job_on_kafka
    await job.open_account(RICH)
    build_id = await job.ask("steps among kills")
    for calls, name in enumerate(SERVICES, 1):
        await job.until(build_id, has(ToolCallCompleted, times=calls), 60, what=f"{calls} calls")
        victim = job.process(name)
        assert victim is not None, name
        victim.kill()

        def lives_again(name: str = name, old: int = victim.pid) -> bool:
            again = job.process(name)
            return again is not None and again.pid != old

        await eventually(lives_again, 30, what=f"{name} lives again")
    events = await job.until(build_id, ended, 100, what="ended")
    assert_ready(job, build_id, events, steps=8)
