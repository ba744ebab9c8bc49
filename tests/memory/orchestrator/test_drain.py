"""A replica that is told to stop finishes the model call in flight, which is paid once, and releases its builds."""

import asyncio
from typing import Any

from tests.memory.orchestrator.lone_orchestrator import BUILD, LoneOrchestrator, after_an_hour
from tests.memory.orchestrator.test_own_faults import a_tool_call

from nightshift.contracts.events.build import (
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    ToolCallRequested,
)
from nightshift.contracts.model import Event


class Stopped(LoneOrchestrator):
    """Stops after the first event of the type `during`. A model call takes 20 s: longer than the lease of the build.

    `cut_after` is the number of seconds until the drain is cut short.
    """

    def __init__(self, *, during: type[Event] = ModelCallStarted, cut_after: float | None = None) -> None:
        super().__init__(a_tool_call)
        self.during = during
        self.cut_after = cut_after
        self.took = 0.0
        self.lease_was_held = False

    async def answer(self, body: bytes, meter: Any) -> Any:
        meter.under_way = True
        await asyncio.sleep(20)
        self.calls += 1
        return self.respond()

    async def run(self) -> None:
        await self.builds.accept(self.request)
        tasks = [asyncio.create_task(self.scheduler.run()), asyncio.create_task(self.grant())]
        while not any(isinstance(event, self.during) for event in self.events()):  # noqa: ASYNC110 - virtual time, no event to wait for
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        loop, cut_short = asyncio.get_running_loop(), asyncio.Event()
        if self.cut_after is not None:
            loop.call_later(self.cut_after, cut_short.set)
        began = loop.time()
        closing = asyncio.create_task(self.scheduler.close(cut_short))
        closing.add_done_callback(lambda _: setattr(self, "took", loop.time() - began))
        await asyncio.sleep(15)
        self.lease_was_held = await self.leases.acquire(f"build/{BUILD}", "another", ttl=1) is None
        await closing


def ends_of_calls(orchestrator: LoneOrchestrator) -> list[Event]:
    return [one for one in orchestrator.events() if isinstance(one, ModelCallResponded | ModelCallFailed)]


def test_a_drained_build_keeps_its_lease_and_its_answer() -> None:
    orchestrator = after_an_hour(a_tool_call, make=Stopped)
    (end,) = ends_of_calls(orchestrator)
    assert isinstance(end, ModelCallResponded)
    assert orchestrator.calls == 1
    assert orchestrator.cost() == end.cost_microusd == 3_000
    assert orchestrator.lease_was_held
    assert orchestrator.scheduler.active == 0


def test_a_drain_that_is_cut_short_gives_the_call_up() -> None:
    orchestrator = after_an_hour(a_tool_call, make=lambda: Stopped(cut_after=3))
    (end,) = ends_of_calls(orchestrator)
    assert isinstance(end, ModelCallFailed)
    assert end.kind == "abandoned"
    assert not orchestrator.lease_was_held


def test_a_build_without_a_call_in_flight_is_released_at_once() -> None:
    orchestrator = after_an_hour(a_tool_call, make=lambda: Stopped(during=ToolCallRequested))
    assert isinstance(ends_of_calls(orchestrator)[0], ModelCallResponded)
    assert orchestrator.took < 1
