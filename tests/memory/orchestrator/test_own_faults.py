"""An exception in the orchestrator's own code, wherever: the build shows it, and no call is paid again and again."""

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from nightshift.contracts.events.budget import BudgetGranted
from nightshift.contracts.events.build import BudgetRequested, BuildStalled, ModelCallFailed, Usage
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.model import Event, Owner, PendingKind
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.leases.memory import MemoryLeases
from nightshift.eventlog.memory import MemoryEventLog, MemoryTables
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import NewEvent, build_stream
from nightshift.eventlog.prepare import recorded
from nightshift.orchestrator.adapters import event_log_repository
from nightshift.orchestrator.adapters.event_log_repository import EventLogBuildRepository
from nightshift.orchestrator.domain import calls, evolve
from nightshift.orchestrator.domain.commands import Answer, CallFailed
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.ports import CallError, UsageMeter
from nightshift.orchestrator.usecases import runner
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler, SchedulerSettings
from nightshift.orchestrator.usecases.requests import Builds
from nightshift.orchestrator.usecases.runner import Runner, RunnerDependencies
from nightshift.simulation.loop import SimulatedLoop

POLICY = Policy()
AN_HOUR = 3_600.0
BUILD = "b1"


class Deployment:
    """One orchestrator over a log in memory, a budget that grants what is asked, and a model that is counted."""

    def __init__(self, respond: Callable[[], Answer]) -> None:
        self.tables = MemoryTables()
        self.respond = respond
        self.calls = 0
        log = MemoryEventLog(self.tables, owner=Owner.ORCHESTRATOR, now=self.now)
        builds = EventLogBuildRepository(log, MemoryObjectStore(), policy=POLICY, actor="test")
        dependencies = RunnerDependencies(builds, self, self, POLICY, self.now)
        settings = SchedulerSettings(owner="me")
        self.scheduler = BuildScheduler(
            MemoryLeases(), self, lambda build_id: Runner(build_id, dependencies), settings=settings
        )
        self.builds = Builds(builds, self.scheduler, policy=POLICY, clock=self.now)

    def now(self) -> datetime:
        return datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=asyncio.get_running_loop().time())

    def events(self) -> list[Event]:
        return [recorded(row).data for row in self.tables.streams[build_stream(BUILD)].rows]

    async def answer(self, body: bytes, meter: UsageMeter) -> Answer:
        self.calls += 1
        meter.under_way = True
        await asyncio.sleep(1)
        return self.respond()

    async def number(self, project_id: str, build_id: str) -> int:
        return 1

    async def unowned(self, *, limit: int) -> Sequence[str]:
        kinds = {item.kind for item in self.tables.pending.values()}
        return [BUILD] if PendingKind.BUILD in kinds and PendingKind.SLEEPER not in kinds else []

    async def grant(self) -> None:
        """Grants every request for money, as the budget service does."""
        log = MemoryEventLog(self.tables, owner=Owner.BUDGET, now=self.now)
        granted = 0
        while True:
            asked = [event for event in self.events() if isinstance(event, BudgetRequested)]
            for request in asked[granted:]:
                grant = BudgetGranted(
                    lease_id=request.lease_id,
                    account_id="a1",
                    day="2026-11-22",
                    amount_microusd=request.amount_microusd,
                    left_today_microusd=10**9,
                    expires_at=self.now() + timedelta(days=1),
                )
                await log.append(build_stream(BUILD), [NewEvent(grant, request.lease_id)])
            granted = len(asked)
            await asyncio.sleep(2)

    async def run(self) -> None:
        """Accepts the build and lets an hour pass."""
        request = BuildRequested(build_id=BUILD, project_id="p", account_id="a1", idea_brief="An app.")
        await self.builds.accept(request)
        tasks = [asyncio.create_task(self.scheduler.keep()), asyncio.create_task(self.grant())]
        await asyncio.sleep(AN_HOUR)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.scheduler.close()


def after_an_hour(respond: Callable[[], Answer]) -> Deployment:
    loop = SimulatedLoop(random.Random(1))
    asyncio.set_event_loop(loop)
    try:
        deployment = Deployment(respond)
        with structlog.testing.capture_logs():
            loop.run_until_complete(deployment.run())
        return deployment
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def a_tool_call() -> Answer:
    use = {"type": "tool_use", "id": "t", "name": "bash", "input": {"command": "true"}}
    return Answer("msg_1", "scripted-1", (use,), "tool_use", Usage(input_tokens=1_000), 1, 1)


def refused() -> Answer:
    raise CallError(CallFailed("rate_limited", "no", status=429))


def unreadable() -> Answer:
    raise RecursionError("maximum recursion depth exceeded")


def absurd() -> Answer:
    return Answer("msg_1", "m", (), "end_turn", Usage(output_tokens=2**53 - 1), 1, 1)


def raising(*_: Any, **__: Any) -> Any:
    raise OverflowError("date value out of range")


def cost(deployment: Deployment) -> int:
    return sum(getattr(event, "cost_microusd", 0) for event in deployment.events())


def stalls(deployment: Deployment) -> list[BuildStalled]:
    return [event for event in deployment.events() if isinstance(event, BuildStalled)]


def test_a_refused_call_that_cannot_be_decided_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "backoff", raising)
    deployment = after_an_hour(refused)
    assert deployment.calls == 1
    assert cost(deployment) == 0
    assert [stall.reason for stall in stalls(deployment)] == ["fault"]
    assert deployment.events()[-1].type == "sleep.requested"


def test_an_answer_that_cannot_be_decided_is_paid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_act", raising)
    deployment = after_an_hour(a_tool_call)
    assert deployment.calls == 1
    assert cost(deployment) == 3_000
    assert "OverflowError" in str(stalls(deployment)[0].detail)


def test_a_request_that_cannot_be_rendered_is_never_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "request_bytes", raising)
    deployment = after_an_hour(a_tool_call)
    assert (deployment.calls, cost(deployment)) == (0, 0)
    assert [stall.reason for stall in stalls(deployment)] == ["fault"]


def test_an_answer_that_cannot_be_folded_is_paid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log_repository, "evolve", _except_for("model_call.responded"))
    deployment = after_an_hour(a_tool_call)
    assert deployment.calls == 1
    (stall,) = stalls(deployment)
    assert "model_call.responded at version" in str(stall.detail)


def test_a_fold_that_raises_is_shown_and_starts_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log_repository, "evolve", _except_for("budget.granted"))
    deployment = after_an_hour(a_tool_call)
    assert deployment.calls == 0
    assert len(stalls(deployment)) == 1


def test_a_next_step_that_raises_is_shown_and_starts_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "next_step", raising)
    deployment = after_an_hour(a_tool_call)
    assert deployment.calls == 0
    assert 1 <= len(stalls(deployment)) <= 2  # before the grant and after it


@pytest.mark.parametrize("respond", [unreadable, absurd])
def test_answers_that_nobody_can_read_are_bounded_and_shown(respond: Callable[[], Answer]) -> None:
    deployment = after_an_hour(respond)
    failed = [event for event in deployment.events() if isinstance(event, ModelCallFailed)]
    assert 1 <= len(failed) == deployment.calls <= POLICY.attempts + POLICY.provider_sleeps
    assert "model_call.started" not in [event.type for event in deployment.events()[-2:]]


def test_an_object_store_that_is_down_is_shown_within_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unavailable(*_: Any) -> Any:
        raise Unavailable("the object store does not answer")

    monkeypatch.setattr(event_log_repository, "materialize", unavailable)
    deployment = after_an_hour(a_tool_call)
    assert len(stalls(deployment)) <= 2  # one an hour
    rows = deployment.tables.streams[build_stream(BUILD)].rows
    shown = next(event for event in map(recorded, rows) if isinstance(event.data, BuildStalled))
    assert shown.recorded_at - recorded(rows[0]).recorded_at < timedelta(seconds=10)
    stall = shown.data
    assert isinstance(stall, BuildStalled)
    assert stall.reason == "dependency"
    assert "object store" in str(stall.detail)
    assert "doctor" in stall.action


def _except_for(type_: str) -> Callable[..., Any]:
    def fold(state: Any, event: Any) -> Any:
        return raising() if event.data.type == type_ else evolve.evolve(state, event)

    return fold
