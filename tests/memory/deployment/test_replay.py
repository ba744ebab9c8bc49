"""Verify finds nothing in the builds of a simulated deployment, and finds a planted change of the decisions."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from tests.memory.deployment.scenario import scenario

from nightshift.contracts.events.build import (
    BuildWaiting,
    CheckpointSaved,
    ModelCallFailed,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import Fault
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain import calls, decide, next_step, waiting
from nightshift.orchestrator.usecases.replay import state_after, verify
from nightshift.simulation import World, simulate


@pytest.fixture(scope="module")
def builds() -> Sequence[Sequence[RecordedEvent]]:
    """The logs of builds with errors, sleeps, cancels and crashes. `make simulate` verifies those of 200 builds."""
    found: list[Sequence[RecordedEvent]] = []

    async def collect(world: World) -> None:
        deployment = await scenario(world)
        found.extend(filter(None, map(deployment.recorded, deployment.build_ids)))

    for seed in range(3):
        simulate(collect, seed)
    return sorted(found, key=len, reverse=True)


def test_decisions_are_found_and_none_is_left_out(builds):
    for events in builds:
        found = verify(events, kinds=frozenset({"decision", "text", "id"}))
        assert (found.difference, found.unchecked) == (None, {})
        assert found.version == events[-1].version
    assert sum(verify(events).decisions for events in builds) > 100


def _without_retry(original):
    return lambda *given, **more: original(*given, **{**more, "retry_at": None})


def _later(original):
    return lambda state, wake_at: original(state, wake_at + timedelta(minutes=1))


def _other_tool(original):
    return lambda *given: original(*given).model_copy(update={"timeout_s": 1})


def _other_reason(original):
    return lambda state: original(state).model_copy(update={"reason": "approval"})


@pytest.mark.parametrize(
    ("module", "function", "changed", "kind", "fields"),
    [
        (calls, "checkpoint", lambda _: lambda state: (), CheckpointSaved, ()),
        (calls, "_failed", _without_retry, ModelCallFailed, ("retry_at",)),
        (calls, "_request", _other_tool, ToolCallRequested, ("timeout_s",)),
        (decide, "_sleep", _later, SleepRequested, ("wake_at",)),
        (waiting, "wait", _other_reason, BuildWaiting, ("reason",)),
    ],
)
def test_a_planted_change_is_found_at_its_first_effect(
    builds, monkeypatch: pytest.MonkeyPatch, module, function, changed, kind, fields
):
    def affected(fact: Event) -> bool:
        if isinstance(fact, ModelCallFailed):
            return fact.retry_at is not None
        if isinstance(fact, SleepRequested):
            return fact.reason == "budget"
        if isinstance(fact, BuildWaiting):
            return fact.reason not in ("approval", "paused")
        return not isinstance(fact, ToolCallRequested) or fact.purpose == "agent"

    monkeypatch.setattr(module, function, changed(getattr(module, function)))
    places = 0
    for events in builds:
        first = next((one for one in events if isinstance(one.data, kind) and affected(one.data)), None)
        found = verify(events).difference
        assert (found and found.version) == (first and first.version), found
        if found is not None and first is not None:
            places += 1
            assert found.recorded == first.data
            assert found.decided != first.data
            assert found.fields == fields
    assert places


def test_a_step_where_the_present_code_waits_is_a_difference(builds, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(next_step, "_think", lambda *_: next_step.Asleep())
    found = verify(builds[0]).difference
    assert found is not None
    assert (found.command, found.decided) == ("waits", None)


@pytest.mark.parametrize("damage", ["gap", "repeated", "unknown", "illegal"])
def test_a_log_that_cannot_be_folded_names_the_position(builds, damage: str):
    events = list(builds[0])
    if damage == "gap":
        del events[9]
    elif damage == "repeated":
        events[10] = events[9]
    elif damage == "unknown":
        events[10] = events[10]._replace(data=Event())
        Event.type = "what.happened"
    else:
        moved = next(index for index, one in enumerate(events) if one.data.type == "build.phase_changed")
        events[10] = events[moved]._replace(version=11)
    try:
        with pytest.raises(Fault, match=r"version 1[01] of build-b"):
            state_after(events)
        with pytest.raises(Fault, match=r"version 1[01] of build-b"):
            verify(events)
    finally:
        if damage == "unknown":
            del Event.type
