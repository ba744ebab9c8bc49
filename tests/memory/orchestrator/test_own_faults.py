"""Exceptions in the orchestrator's own code: the build shows them, and no call is paid again without limit."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.memory.orchestrator.lone_orchestrator import (
    POLICY,
    LoneOrchestrator,
    after_an_hour,
)

from nightshift.contracts.events.build import BuildStalled, ModelCallFailed, Usage
from nightshift.contracts.events.sandbox import SandboxOpened
from nightshift.contracts.model import Event, Owner
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.port import NewEvent, build_stream
from nightshift.orchestrator.adapters import event_log_repository
from nightshift.orchestrator.domain import calls, evolve
from nightshift.orchestrator.domain.commands import Answer, CallFailed
from nightshift.orchestrator.ports import CallError, UsageMeter
from nightshift.orchestrator.usecases import runner


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


def test_a_refused_call_that_cannot_be_decided_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "backoff", raising)
    orchestrator = after_an_hour(refused)
    assert orchestrator.calls == 1
    assert orchestrator.cost() == 0
    assert [stall.reason for stall in orchestrator.stalls()] == ["fault"]
    assert orchestrator.events()[-1].type == "sleep.requested"


def test_an_answer_that_cannot_be_decided_is_paid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_act", raising)
    orchestrator = after_an_hour(a_tool_call)
    assert orchestrator.calls == 1
    assert orchestrator.cost() == 3_000
    assert "OverflowError" in str(orchestrator.stalls()[0].detail)


def test_a_request_that_cannot_be_rendered_is_never_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "request_bytes", raising)
    orchestrator = after_an_hour(a_tool_call)
    assert (orchestrator.calls, orchestrator.cost()) == (0, 0)
    assert [stall.reason for stall in orchestrator.stalls()] == ["fault"]


def test_an_answer_that_cannot_be_folded_is_paid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log_repository, "evolve", _except_for("model_call.responded"))
    orchestrator = after_an_hour(a_tool_call)
    assert orchestrator.calls == 1
    (stall,) = orchestrator.stalls()
    assert "model_call.responded at version" in str(stall.detail)


def test_a_fold_that_raises_is_shown_and_starts_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log_repository, "evolve", _except_for("budget.granted"))
    orchestrator = after_an_hour(a_tool_call)
    assert orchestrator.calls == 0
    assert len(orchestrator.stalls()) == 1


def test_a_next_step_that_raises_is_shown_and_starts_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "next_step", raising)
    orchestrator = after_an_hour(a_tool_call)
    assert orchestrator.calls == 0
    assert 1 <= len(orchestrator.stalls()) <= 2  # before the grant and after it


@pytest.mark.parametrize("respond", [unreadable, absurd])
def test_answers_that_nobody_can_read_are_bounded_and_shown(respond: Callable[[], Answer]) -> None:
    orchestrator = after_an_hour(respond)
    failed = [event for event in orchestrator.events() if isinstance(event, ModelCallFailed)]
    assert 1 <= len(failed) == orchestrator.calls <= POLICY.attempts + POLICY.provider_sleeps
    assert "model_call.started" not in [event.type for event in orchestrator.events()[-2:]]


def test_a_provider_that_does_not_begin_to_answer_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(self: LoneOrchestrator, body: bytes, meter: UsageMeter) -> Answer:
        self.calls += 1
        await asyncio.sleep(90)
        return a_tool_call()

    monkeypatch.setattr(LoneOrchestrator, "answer", silent)
    orchestrator = after_an_hour(a_tool_call)
    assert orchestrator.calls == 1
    events = orchestrator.recorded()
    started = next(event for event in events if event.data.type == "model_call.started")
    (shown,) = [event for event in events if isinstance(event.data, BuildStalled)]
    assert shown.recorded_at - started.recorded_at < timedelta(seconds=10)
    assert "model provider" in str(shown.data.detail)
    assert events[-1].data.type == "tool_call.requested"


def test_an_object_store_that_is_down_is_shown_within_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unavailable(*_: Any) -> Any:
        raise Unavailable("the object store does not answer")

    monkeypatch.setattr(event_log_repository, "materialize", unavailable)
    orchestrator = after_an_hour(a_tool_call)
    assert len(orchestrator.stalls()) <= 2  # one an hour
    first, *later = orchestrator.recorded()
    shown = next(event for event in later if isinstance(event.data, BuildStalled))
    assert shown.recorded_at - first.recorded_at < timedelta(seconds=10)
    stall = shown.data
    assert isinstance(stall, BuildStalled)
    assert stall.reason == "dependency"
    assert "object store" in str(stall.detail)
    assert "doctor" in stall.action


def _except_for(type_: str) -> Callable[..., Any]:
    def fold(state: Any, event: Any) -> Any:
        return raising() if event.data.type == type_ else evolve.evolve(state, event)

    return fold


def test_an_answer_that_cannot_be_stored_is_shown_and_paid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The object store is down for a minute while an answer is appended."""
    stored = event_log_repository.externalize

    async def down_for_a_minute(data: Event, objects: ObjectStore) -> Event:
        if data.type == "model_call.responded" and asyncio.get_running_loop().time() < 60:
            raise Unavailable("the object store does not answer")
        return await stored(data, objects)

    monkeypatch.setattr(event_log_repository, "externalize", down_for_a_minute)
    orchestrator = after_an_hour(a_tool_call)
    assert orchestrator.calls == 1
    assert orchestrator.cost() == 3_000
    events = orchestrator.recorded()
    started = next(event for event in events if event.data.type == "model_call.started")
    (shown,) = [event for event in events if isinstance(event.data, BuildStalled)]
    assert shown.recorded_at - started.recorded_at < timedelta(seconds=10)
    assert events[-1].data.type == "tool_call.requested"


def test_an_answer_outlives_a_conflict_and_reset_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer is first, and the connection breaks four times while the orchestrator reads what was written."""
    caught_up = event_log_repository.EventLogBuildRepository.catch_up
    resets: list[None] = []

    async def answer(self: LoneOrchestrator, body: bytes, meter: UsageMeter) -> Answer:
        self.calls += 1
        log = MemoryEventLog(self.tables, owner=Owner.SANDBOX_GATEWAY, now=self.now)
        opened = SandboxOpened(sandbox_id="s1", driver="local", generation=1)
        await log.append(build_stream("b1"), [NewEvent(opened, uuid4())])
        resets.extend([None] * 4)
        return a_tool_call()

    async def reset(self: Any, *arguments: Any) -> Any:
        if resets:
            resets.pop()
            raise Unavailable("log.read_stream: the connection was reset")
        return await caught_up(self, *arguments)

    monkeypatch.setattr(LoneOrchestrator, "answer", answer)
    monkeypatch.setattr(event_log_repository.EventLogBuildRepository, "catch_up", reset)
    orchestrator = after_an_hour(a_tool_call)
    assert (orchestrator.calls, orchestrator.cost(), orchestrator.stalls()) == (1, 3_000, [])
    assert [event.type for event in orchestrator.events()][-2:] == [
        "model_call.responded",
        "tool_call.requested",
    ]
