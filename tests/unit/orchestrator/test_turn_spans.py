"""The spans of turns, from committed events: once each, joined over a take-over, linked to the request."""

from uuid import UUID, uuid4

import pytest

from nightshift.contracts.events.build import (
    BuildCancelled,
    CheckpointSaved,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    ToolCallRequested,
    Usage,
)
from nightshift.eventlog.memory import MemoryEventLog, MemoryTables
from nightshift.eventlog.port import NewEvent
from nightshift.orchestrator.adapters.turn_spans import traced
from nightshift.servicekit import tracing

STREAM = "build-b1"


def started(turn: int, attempt: int = 1) -> ModelCallStarted:
    return ModelCallStarted(
        turn=turn, attempt=attempt, model="scripted-1", lease_id=UUID(int=1), reserve_microusd=1
    )


def responded(turn: int) -> ModelCallResponded:
    return ModelCallResponded(
        turn=turn,
        attempt=1,
        model="scripted-1",
        message_id="msg",
        content=({"type": "text", "text": "a private thought"},),
        stop_reason="tool_use",
        usage=Usage(
            input_tokens=10, output_tokens=5, cache_read_input_tokens=100, cache_write_5m_input_tokens=1
        ),
        price_version="1",
        cost_microusd=42,
        latency_ms=10,
        first_token_ms=5,
    )


def tool(turn: int) -> ToolCallRequested:
    return ToolCallRequested(
        call_id=f"b1/{turn}/0", turn=turn, index=0, tool="bash", tool_use_id="t", input={"command": "cat key"}
    )


async def append(log, *facts) -> None:
    await log.append(STREAM, [NewEvent(fact, uuid4(), index) for index, fact in enumerate(facts)])


def hexed(context) -> tuple[str, str]:
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


async def test_a_turn_is_one_trace_with_its_call_below_it(exported):
    tables = MemoryTables()
    log = traced(MemoryEventLog(tables))
    await append(log, started(1))
    await append(log, responded(1), tool(1))
    await append(log, CheckpointSaved(turn=1), started(2))
    call, turn = exported()
    assert (call.name, turn.name) == ("chat scripted-1", "invoke_agent nightshift")
    assert hexed(call.parent) == hexed(turn.context)
    assert turn.parent is None
    assert call.attributes["gen_ai.usage.input_tokens"] == 111, "the convention counts cached tokens, too"
    assert turn.attributes["nightshift.tool_calls"] == 1
    assert turn.attributes["gen_ai.conversation.id"] == "b1"
    traces = [row.traceparent for row in tables.streams[STREAM].rows]
    assert len(set(traces[:4])) == 1
    assert traces[4] != traces[3], "the next turn has its own trace"
    shown = call.to_json() + turn.to_json()
    assert "private" not in shown
    assert "cat key" not in shown


async def test_another_replica_continues_the_trace_of_a_turn(exported):
    tables = MemoryTables()
    first = traced(MemoryEventLog(tables))
    await append(first, started(1))
    await append(first, responded(1), tool(1))
    # It dies here. The next owner loads the build and finishes the turn.
    second = traced(MemoryEventLog(tables))
    _ = [event async for event in second.read_stream(STREAM)]
    await append(second, CheckpointSaved(turn=1), started(2))
    call, turn = exported()
    assert hexed(call.parent) == hexed(turn.context)
    assert turn.start_time < call.end_time <= turn.end_time
    assert turn.attributes["nightshift.model_calls"] == 1


async def test_a_failed_attempt_has_a_span_with_its_kind(exported):
    log = traced(MemoryEventLog())
    await append(log, started(1))
    await append(log, ModelCallFailed(turn=1, attempt=1, kind="overloaded", detail="a private detail"))
    [call] = exported()
    assert call.attributes["error.type"] == "overloaded"
    assert "private" not in call.to_json()


async def test_an_end_closes_its_turn_and_a_repeated_append_adds_no_span(exported):
    log = traced(MemoryEventLog())
    end = NewEvent(BuildCancelled(reason="enough", cost_microusd=1, turns=1), uuid4())
    await append(log, started(1))
    await log.append(STREAM, [end])
    await log.append(STREAM, [end])
    [turn] = exported()
    assert turn.attributes["nightshift.ended"] == "build.cancelled"


async def test_a_turn_links_to_the_request_and_the_turn_before(exported, request_trace):
    log = traced(MemoryEventLog())
    with tracing.within(request_trace):
        await append(log, _accepted())
    await append(log, started(1))
    await append(log, CheckpointSaved(turn=1), started(2))
    await append(log, CheckpointSaved(turn=2))
    first, second = exported()
    assert [hexed(link.context) for link in first.links] == [("c" * 32, "d" * 16)]
    assert [hexed(link.context) for link in second.links] == [("c" * 32, "d" * 16), hexed(first.context)]


@pytest.fixture
def request_trace() -> str:
    return "00-" + "c" * 32 + "-" + "d" * 16 + "-01"


def _accepted():
    from nightshift.contracts.events.build import BuildAccepted

    return BuildAccepted(
        build_id="b1",
        project_id="p",
        account_id="a",
        idea_brief="A page.",
        model="scripted-1",
        turn_limit=9,
        tool_call_limit=9,
    )


def test_without_tracing_the_log_is_the_same_object():
    log = MemoryEventLog()
    assert traced(log) is log
