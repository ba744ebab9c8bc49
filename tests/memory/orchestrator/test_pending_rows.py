"""The rows of `pending` that the orchestrator's events leave behind: none outlives its purpose."""

import pytest

from nightshift.contracts import ids
from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildCancelled,
    BuildFailed,
    BuildPhaseChanged,
    BuildReady,
    BuildResumed,
    BuildWaiting,
    BuildWoken,
    CheckpointSaved,
    Phase,
    SleepRequested,
)
from nightshift.contracts.events.sandbox import SandboxOpened
from nightshift.contracts.model import Event
from nightshift.eventlog.memory import MemoryEventLog, MemoryTables
from nightshift.eventlog.port import NewEvent, build_stream

STARTED = BuildPhaseChanged(from_phase=Phase.QUEUED, to_phase=Phase.STARTING)
ACCEPTED = BuildAccepted(
    build_id="b1",
    project_id="p1",
    account_id="a1",
    idea_brief="An app.",
    model="scripted-1",
    turn_limit=9,
    tool_call_limit=9,
)
OPENED = SandboxOpened(sandbox_id="s", driver="local", generation=0)
CHECKPOINT = CheckpointSaved(turn=1)
ASLEEP = SleepRequested(reason="budget", account_id="a1")
READY = BuildReady(
    project_id="p1", sandbox_id="s", preview_url="", build_version=1, cost_microusd=0, turns=1, tool_calls=1
)
FAILED = BuildFailed(reason="deadline", detail="over", cost_microusd=0, turns=1)
CANCELLED = BuildCancelled(reason="enough", cost_microusd=0, turns=1)


async def rows(*events: Event) -> set[str]:
    """What is pending after these events of a build with a sandbox, without the subject and the sandbox itself."""
    tables = MemoryTables()
    new = [
        NewEvent(event, ids.request_cause("test", str(number)))
        for number, event in enumerate((OPENED, *events))
    ]
    await MemoryEventLog(tables).append(build_stream("b1"), new)
    return {f"{item.kind} {item.key}".replace(" b1", "") for item in tables.pending.values()} - {"sandbox"}


async def test_a_sleep_opens_its_snapshot():
    assert await rows(ACCEPTED, STARTED, ASLEEP) == {"build", "sleeper", "snapshot/pre_sleep"}


async def test_a_wake_closes_the_snapshot_before_the_sleep():
    assert await rows(ACCEPTED, STARTED, ASLEEP, BuildWoken(reason="person")) == {"build"}


async def test_a_build_waits_for_its_provider_or_for_a_person():
    provider, pause = BuildWaiting(reason="provider"), BuildWaiting(reason="paused")
    assert await rows(ACCEPTED) == {"build", "queued"}
    assert await rows(ACCEPTED, STARTED, provider) == {"build", "provider"}
    assert await rows(ACCEPTED, STARTED, provider, pause) == {"build", "waiting"}
    assert await rows(ACCEPTED, STARTED, pause, provider, BuildResumed(reason="provider")) == {"build"}


@pytest.mark.parametrize("end", [READY, FAILED, CANCELLED], ids=lambda end: end.type)
async def test_an_end_leaves_only_its_own_snapshot(end: Event):
    provider = BuildWaiting(reason="provider")
    assert await rows(ACCEPTED, CHECKPOINT, ASLEEP, provider, end) == {"snapshot/completion"}
