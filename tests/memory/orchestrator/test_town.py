"""Builds in a simulated town: whatever crashes and is lost, they get ready, and no promise of the log is broken."""

from collections import Counter
from dataclasses import replace

import pytest
from tests.memory.orchestrator import judge
from tests.memory.orchestrator import town as towns
from tests.memory.orchestrator.town import Town, budget, gateway, orchestrate

from nightshift.contracts.events.build import ModelCallFailed
from nightshift.orchestrator.domain.commands import Answer
from nightshift.simulation import Violation, World, simulate

SEEDS = range(12)


async def scenario(world: World, **changes) -> Town:
    town = Town(world, ("b1", "b2"), **changes)
    processes = [
        world.start("orch-1", lambda: orchestrate(town, "orch-1")),
        world.start("orch-2", lambda: orchestrate(town, "orch-2")),
        world.start("gateway", lambda: gateway(town)),
        world.start("budget", lambda: budget(town)),
    ]
    await world.finish(processes, within=24 * 3600)
    for build_id in town.build_ids:
        if found := judge.faults(town.events(build_id)):
            raise Violation(f"{build_id}: " + "; ".join(found))
    if sorted(town.numbers.values()) != [1, 2]:
        raise Violation(f"numbers of the project's builds: {town.numbers}")
    return town


def test_builds_get_ready_whatever_happens():
    """And the town is a hard place, else the seeds would show nothing."""
    seen: Counter = Counter()

    async def look(world: World) -> None:
        town = await scenario(world)
        for event in (event for build_id in town.build_ids for event in town.events(build_id)):
            seen[event.kind if event.type == "model_call.failed" else event.type] += 1

    for seed in SEEDS:
        seen["faults"] += simulate(look, seed).faults
    assert all(
        seen[kind] for kind in ("faults", "sleep.requested", "abandoned", "overloaded", "stream_cut")
    ), seen


def test_an_answer_that_no_event_can_hold_is_a_failed_attempt_and_billed_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the run would fail, be taken up again and pay for the same call without end."""
    given: list[Answer] = []
    ours = towns._answer

    def unholdable_at_first(said: int, turns: int) -> Answer:
        answer = ours(said, turns)
        if given or said != 1:
            return answer
        given.append(answer)
        return replace(answer, content=({"type": "tool_use", "id": "t", "name": "x" * 300, "input": {}},))

    monkeypatch.setattr(towns, "_answer", unholdable_at_first)

    async def look(world: World) -> None:
        town = await scenario(world)
        failed = [event for one in town.build_ids for event in town.events(one) if _malformed(event)]
        assert [event.usage for event in failed] == [given[0].usage]

    simulate(look, 3)


def _malformed(event: object) -> bool:
    return isinstance(event, ModelCallFailed) and event.kind == "malformed"
