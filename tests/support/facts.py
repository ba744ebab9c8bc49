"""Makes events to append in tests."""

from uuid import UUID, uuid4

from nightshift.contracts.events.build import (
    AgentSteered,
    BuildAccepted,
    BuildCancelled,
    BuildPhaseChanged,
    BuildReady,
    CheckpointSaved,
    Phase,
    ToolCallRequested,
)
from nightshift.contracts.events.sandbox import SandboxClosed, SandboxOpened, ToolCallCompleted
from nightshift.contracts.model import Event
from nightshift.eventlog.port import NewEvent


def new(data: Event, *, cause: UUID | None = None, index: int = 0) -> NewEvent:
    """Returns the event with the given cause, or with a random one."""
    return NewEvent(data, causation_id=cause or uuid4(), index=index)


def note(text: str = "go on", *, cause: UUID | None = None, index: int = 0) -> NewEvent:
    """Returns an event that changes no pending row."""
    return new(AgentSteered(reason="person", message=text), cause=cause, index=index)


def checkpoint(turn: int = 1, *, cause: UUID | None = None) -> NewEvent:
    """Returns an event that opens a pending snapshot while the build has a sandbox."""
    return new(CheckpointSaved(turn=turn), cause=cause, index=turn)


def sandbox(number: int = 1) -> NewEvent:
    """Returns an event that opens the build's sandbox."""
    return new(SandboxOpened(sandbox_id=f"s{number}", driver="local", generation=number))


def sandbox_closed(number: int = 1) -> NewEvent:
    """Returns an event that closes the build's sandbox with its files."""
    return new(SandboxClosed(sandbox_id=f"s{number}", reason="test"))


def phase() -> NewEvent:
    """Returns an event that changes no pending row and carries no text."""
    return new(BuildPhaseChanged(from_phase=Phase.STARTING, to_phase=Phase.SCAFFOLD))


def accepted(build_id: str) -> NewEvent:
    """Returns the first event of a build."""
    return new(
        BuildAccepted(
            build_id=build_id,
            project_id="p1",
            account_id="a1",
            idea_brief="a list of books",
            model="m1",
            turn_limit=10,
            tool_call_limit=10,
        )
    )


def cancelled() -> NewEvent:
    """Returns an event that closes the stream."""
    return new(BuildCancelled(reason="enough", cost_microusd=0, turns=0))


def ready() -> NewEvent:
    """Returns the end of a build whose preview answers."""
    return new(
        BuildReady(
            project_id="p1",
            sandbox_id="s1",
            preview_url="http://h/",
            build_version=1,
            cost_microusd=0,
            turns=1,
            tool_calls=1,
        )
    )


def call(call_id: str, text: str = "ls") -> NewEvent:
    """Returns a tool call, which opens a pending row."""
    return new(
        ToolCallRequested(
            call_id=call_id, turn=1, index=0, tool="bash", tool_use_id="t1", input={"command": text}
        )
    )


def result(call_id: str, output: str = "done", *, cause: UUID | None = None) -> NewEvent:
    """Returns the result of a tool call, which may follow the end of a build."""
    return new(ToolCallCompleted(call_id=call_id, is_error=False, output=output, duration_ms=1), cause=cause)
