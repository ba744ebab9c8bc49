"""A whole deployment under faults: builds end, and no invariant of calls, money or pending rows is broken."""

import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from uuid import UUID

import pytest
from tests.memory.deployment import provider
from tests.memory.deployment.deployment import Fixture
from tests.memory.deployment.scenario import scenario

from nightshift.budget.usecases.grants import Grants
from nightshift.budget.usecases.wakes import Sleeper, Wakes
from nightshift.contracts.events.build import BudgetRequested, ModelCallFailed, ToolCallAnswered
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain.commands import Answer
from nightshift.simulation import SimulationFailed, World, simulate

#: `make simulate` tries more.
SEEDS = (*range(10), 18, 19, 28, 29, 31, 33, 39)
#: How many seeds are searched for a planted fault.
SEARCHED = 150


def test_no_invariant_is_broken_under_faults():
    """Also checks that the faults happen: otherwise the seeds would show nothing."""
    seen: Counter[str] = Counter()

    async def count(world: World) -> None:
        deployment = await scenario(world)
        seen["broker emptied"] += deployment.broker.epoch
        for event in deployment.history():
            seen[event.data.kind if isinstance(event.data, ModelCallFailed) else event.data.type] += 1
            if isinstance(event.data, ToolCallAnswered):
                seen[f"answered by {event.data.by}"] += 1
            if (reason := getattr(event.data, "reason", None)) in ("unproven", "criteria_not_met"):
                seen[reason] += 1

    for seed in SEEDS:
        seen["faults"] += simulate(count, seed).faults
    expected = {"faults", "broker emptied", "sleep.requested", "build.cancelled", "build.ready", "unproven"}
    expected |= {"criteria.judged", "criteria_not_met", "approval.requested", "approval.resolved"}
    expected |= {f"answered by {who}" for who in ("person", "default", "customer", "policy")}
    expected |= {"abandoned", "auth", "overloaded", "stream_cut", "budget.denied", "wake.requested"}
    assert expected <= seen.keys(), seen


class SettlesFirst(Grants):
    """Settles every reservation of the build before it asks whether the request still waits."""

    async def answer(self, event: RecordedEvent, request: BudgetRequested) -> None:
        await self.settle_build(event.subject, granted_before=sys.maxsize)
        await super().answer(event, request)


class ForgetsEndedBuilds(Grants):
    """Leaves the request of an ended build without an answer."""

    async def answer(self, event: RecordedEvent, request: BudgetRequested) -> None:
        newest = self._event_log.read_stream(event.stream_id, backwards=True, limit=5)
        if not [one async for one in newest if one.data.terminal]:
            await super().answer(event, request)


class WakesUnpaid(Wakes):
    """Wakes every build that is due, whether its next call can be paid or not."""

    async def _wake(self, sleeper: Sleeper, reason: str, cause: UUID, **_: object) -> None:
        await self._append_wake(sleeper, reason, cause)


@pytest.mark.parametrize(
    ("fixture", "violation"),
    [
        (Fixture(grants=SettlesFirst), "a live reservation was settled"),
        (Fixture(grants=ForgetsEndedBuilds), "outlives its purpose"),
        (Fixture(wakes=WakesUnpaid), "ended in a denial"),
    ],
    ids=["settles first", "forgets ended builds", "wakes unpaid"],
)
def test_a_planted_fault_about_money_is_found(fixture: Fixture, violation: str):
    for seed in range(SEARCHED):
        try:
            simulate(partial(scenario, fixture=fixture), seed)
        except SimulationFailed as failed:
            if violation in str(failed):
                return
    pytest.fail(f"no seed of {SEARCHED} finds {violation!r}")


def test_an_answer_that_no_event_can_hold_is_billed_as_failed(monkeypatch: pytest.MonkeyPatch):
    """Otherwise the run would fail, restart and pay for the same call again without end."""
    given: list[Answer] = []
    answer = provider.scripted_answer

    def malformed_once(answered: int, turns: int) -> Answer:
        good = answer(answered, turns)
        if given or answered != 1:
            return good
        given.append(good)
        return replace(good, content=({"type": "tool_use", "id": "t", "name": "x" * 300, "input": {}},))

    monkeypatch.setattr(provider, "scripted_answer", malformed_once)

    async def check(world: World) -> None:
        deployment = await scenario(world)
        events = [event.data for event in deployment.history()]
        failed = [one for one in events if isinstance(one, ModelCallFailed) and one.kind == "malformed"]
        assert [event.usage for event in failed] == [given[0].usage]

    simulate(check, 1)
