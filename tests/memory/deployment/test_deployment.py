"""A whole deployment under faults: builds end, and no invariant of calls, money or pending rows is broken."""

from collections import Counter
from dataclasses import replace

import pytest
from tests.memory.deployment import provider
from tests.memory.deployment.scenario import scenario

from nightshift.contracts.events.build import ModelCallFailed
from nightshift.orchestrator.domain.commands import Answer
from nightshift.simulation import World, simulate

SEEDS = range(40)


def test_no_invariant_is_broken_under_faults():
    """Also checks that the faults happen: otherwise the seeds would show nothing."""
    seen: Counter[str] = Counter()

    async def count(world: World) -> None:
        deployment = await scenario(world)
        seen["broker emptied"] += deployment.broker.epoch
        for event in deployment.history():
            seen[event.data.kind if isinstance(event.data, ModelCallFailed) else event.data.type] += 1

    for seed in SEEDS:
        seen["faults"] += simulate(count, seed).faults
    expected = {"faults", "broker emptied", "sleep.requested", "build.cancelled", "build.ready"}
    expected |= {"abandoned", "overloaded", "stream_cut", "budget.denied", "wake.requested"}
    assert expected <= seen.keys(), seen


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
