"""What an operator does while builds run: look at the whole, and drain a service."""

import json

import pytest
from tests.support.main_job import RICH, MainJob, assert_in_order, ended, has, of
from tests.support.processes import nightshift

from nightshift.contracts.events.build import BuildAccepted, BuildReady
from nightshift.contracts.events.sandbox import ToolCallCompleted

pytestmark = [pytest.mark.long, pytest.mark.timeout(240), pytest.mark.fault]


async def test_a_drained_orchestrator_leaves_builds_waiting_and_loses_none(short_days: MainJob) -> None:
    job = short_days
    await job.open_account(RICH)
    home = ("--home", str(job.home))
    running = await job.ask("steps among kills")
    await job.until(running, has(ToolCallCompleted, times=2), 60, what="2 calls")
    drained = nightshift("drain", "orchestrator", "--json", *home, timeout=120)
    assert json.loads(drained.stdout) == {"service": "orchestrator", "drained": True, "busy": []}, (
        drained.stderr
    )
    later = await job.ask("steps among kills")
    await job.until(later, has(BuildAccepted), 60, what="accepted")
    found = nightshift("status", "--json", *home, timeout=120)
    status = json.loads(found.stdout)
    assert {one["service"] for one in status["replicas"]} == {
        *("budget", "orchestrator", "relay", "sandbox-gateway", "snapshotter")
    }
    (orchestrator,) = (one for one in status["replicas"] if one["service"] == "orchestrator")
    assert (orchestrator["held"], orchestrator["drained"]) == (0, True)
    assert "lease/build" not in {one["kind"] for one in status["work"]}
    assert {one["group"] for one in status["lag"]} >= {"nightshift.sandbox-gateway.build"}
    assert [event.data.type for event in await job.events(later)] == ["build.accepted"]
    again = nightshift("drain", "orchestrator", "--off", *home, timeout=120)
    assert again.returncode == 0, again.stderr
    for build in (running, later):
        events = await job.until(build, ended, 100, what="ended")
        assert_in_order(events)
        assert len(of(events, BuildReady)) == 1
