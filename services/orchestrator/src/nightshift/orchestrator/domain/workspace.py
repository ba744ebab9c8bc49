"""Folds the events of the sandbox: the sandbox itself, its preview, and messages to the agent about both."""

from collections.abc import Sequence
from typing import assert_never
from urllib.parse import urlsplit
from uuid import UUID

from nightshift.contracts.events.sandbox import (
    PreviewOpened,
    SandboxClosed,
    SandboxEvent,
    SandboxLost,
    SandboxOpened,
    SandboxPaused,
    SandboxRestored,
    SandboxStalled,
    SourceDelivered,
    ToolCallCompleted,
)
from nightshift.contracts.events.snapshot import PathProblem, SnapshotEvent, SnapshotSaved
from nightshift.orchestrator.domain import conversation, failure_counters, instructions, judging
from nightshift.orchestrator.domain.replace import replace
from nightshift.orchestrator.domain.state import BuildState, PreviewTarget, Workspace

#: A call that takes longer than the provider's short cache lives, five minutes.
_LONG_CALL_MS = 300_000
#: The most paths that a message to the agent names.
_NAMED = 20


def sandbox_event(state: BuildState, data: SandboxEvent, event_id: UUID) -> BuildState:
    match data:
        case ToolCallCompleted():
            return completed(replace(state, cause=event_id), data)
        case SandboxOpened():
            # This is another sandbox. The processes of the previous one are gone, and so is its preview.
            return replace(state, workspace=_fresh(state, data.sandbox_id))
        case SandboxRestored():
            return replace(
                state, workspace=replace(state.workspace, news=(*state.workspace.news, _restored(data)))
            )
        case SandboxLost():
            news = (
                "Your sandbox was lost. You go on in a fresh one with the workspace of the last snapshot: what was"
                " written after it, installed or started is gone. Look at the workspace before you go on."
            )
            return replace(state, workspace=replace(_fresh(state), news=(*state.workspace.news, news)))
        case SandboxClosed():
            return replace(state, workspace=_fresh(state))
        case PreviewOpened():
            return replace(state, workspace=_preview_opened(state.workspace, data))
        case SandboxPaused() | SandboxStalled() | SourceDelivered():
            return state
        case _:
            assert_never(data)


def _fresh(state: BuildState, sandbox_id: str | None = None) -> Workspace:
    checked = any(
        call.result is not None for call in state.tool_calls if call.purpose not in ("agent", "instructions")
    )
    return replace(
        state.workspace,
        sandbox_id=sandbox_id,
        preview_port=None,
        preview_url=None,
        preview_path=None,
        replaced=state.workspace.replaced or checked,
    )


def completed(state: BuildState, data: ToolCallCompleted) -> BuildState:
    """Fold the result of a tool call, and update the preview and the counts of repeated calls with it.

    A second result of the same call changes nothing.
    """
    if data.call_id == state.workspace.preparing:
        return replace(state, workspace=_prepared(state.workspace, data))
    call = next((call for call in state.tool_calls if call.call_id == data.call_id), None)
    if call is None:
        return judging.completed(state, data)
    if call.result is not None:
        return state  # the call has a result already, and the first one counts
    if call.preview is not None:
        state = replace(state, workspace=port_opened(state.workspace, call.preview, data))
    if call.purpose == "instructions":
        state = replace(state, workspace=instructions.read(state.workspace, data))
    if call.by_agent:
        if call.may_write and not data.is_error and not state.wrote:
            state = replace(state, wrote=True, wrote_at=state.version)
        if data.duration_ms > _LONG_CALL_MS:
            state = replace(state, waited=True)
        state = replace(state, counters=failure_counters.tool_answered(state.counters, call, data))
    return conversation.completed(state, data)


def _prepared(workspace: Workspace, data: ToolCallCompleted) -> Workspace:
    if data.is_error:
        return replace(workspace, preparing=None, not_prepared=data.output)
    text = data.output if isinstance(data.output, str) else "Your workspace was prepared."
    return replace(workspace, preparing=None, news=(*workspace.news, text))


def _preview_opened(workspace: Workspace, data: PreviewOpened) -> Workspace:
    path = workspace.preview_path if workspace.preview_port == data.port else None
    return replace(workspace, preview_port=data.port, preview_url=data.url, preview_path=path)


def port_opened(workspace: Workspace, target: PreviewTarget, result: ToolCallCompleted) -> Workspace:
    """Return the workspace after the agent's `open_port` call.

    When the URL path of this call did not answer, an earlier path is kept.
    """
    if workspace.preview_port != target.port or (result.is_error and workspace.preview_path is not None):
        return workspace
    return replace(workspace, preview_path=target.path)


def preview_address(workspace: Workspace) -> str:
    """Return the preview's URL with the path that the agent opened, or "" when there is no preview."""
    url, path = workspace.preview_url or "", workspace.preview_path or "/"
    has_path = urlsplit(url).path not in {"", "/"}
    return url if not url or path == "/" or has_path else url.rstrip("/") + path


def news_delivered(workspace: Workspace, reason: str) -> Workspace:
    """Fold a message that was sent to the agent: remove the news that it has delivered.

    `reason` says whether the message was about the instructions, about the sandbox, or about something else.
    """
    if reason == "instructions":
        return replace(workspace, instructions_new=False)
    return replace(workspace, news=()) if reason == "sandbox_restored" else workspace


def _restored(data: SandboxRestored) -> str:
    if data.lost == (".",):
        return (
            "You are in a fresh sandbox, and its workspace is empty: your last snapshot could not be read, so nothing"
            " of what you had made is there."
        )
    text = (
        f"Your workspace was restored into a fresh sandbox from its last snapshot ({data.files} files)."
        " Processes that you had started, servers too, no longer run; what you installed outside of the workspace"
        " is gone."
    )
    if data.differs:
        return f"{text} These are not as you left them: {_listed(data.differs, data.lost_count)}."
    if not data.lost:
        return text
    return f"{text} These files could not be restored: {_listed(data.lost, data.lost_count)}."


def snapshot_event(state: BuildState, data: SnapshotEvent) -> BuildState:
    """Fold an event about a snapshot. The agent is told once about each path that snapshots do not contain."""
    if not isinstance(data, SnapshotSaved):
        return state
    if not data.files and data.at_version >= state.wrote_at and _began_empty(state):
        state = replace(state, wrote=False, wrote_at=0)
    workspace = state.workspace
    if (data.skipped or ()) != workspace.skipped:
        workspace = replace(workspace, skipped=data.skipped or ())
        state = replace(state, workspace=workspace)
    if not data.skipped:
        return state
    new = tuple(one for one in data.skipped if one.path not in workspace.unsaved)
    if not new:
        return state
    news = f"A snapshot of your workspace cannot hold these: {_listed(new)}. They are lost when you get a new sandbox."
    unsaved = workspace.unsaved | {one.path for one in new}
    return replace(state, workspace=replace(workspace, news=(*workspace.news, news), unsaved=unsaved))


def _began_empty(state: BuildState) -> bool:
    """Return whether the workspace had no file at first. Returns False for a fork and for a clone of a repository."""
    return (
        state.accepted is not None and state.accepted.source is None and state.accepted.base_build_id is None
    )


def _listed(paths: Sequence[str | PathProblem], count: int | None = None) -> str:
    """Return a text with the first paths, their reasons if they have some, and the number of the other paths."""
    texts = [one if isinstance(one, str) else f"{one.path} ({one.reason})" for one in paths[:_NAMED]]
    more = max(count or 0, len(paths)) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more else "")
