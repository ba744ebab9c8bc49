"""Where the agent works: its sandbox and preview, and what happened to them that the agent must be told."""

from dataclasses import replace
from typing import assert_never
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
    ToolCallCompleted,
)
from nightshift.orchestrator.domain import talk
from nightshift.orchestrator.domain.state import BuildState, Place

#: Paths named one by one to the agent.
_NAMED = 20


def sandbox_event(state: BuildState, data: SandboxEvent, event_id: UUID) -> BuildState:
    match data:
        case ToolCallCompleted():
            return talk.completed(replace(state, cause=event_id), data)
        case SandboxOpened():
            # Another sandbox: what ran in the last one, its preview too, is gone.
            return replace(state, place=Place(data.sandbox_id, news=state.place.news))
        case SandboxRestored():
            return replace(state, place=replace(state.place, news=(*state.place.news, _restored(data))))
        case SandboxLost():
            news = (
                "Your sandbox was lost. You go on in a fresh one with the workspace of the last snapshot: what was"
                " written after it, installed or started is gone. Look at the workspace before you go on."
            )
            return replace(state, place=Place(news=(*state.place.news, news)))
        case SandboxClosed():
            return replace(state, place=Place(news=state.place.news))
        case PreviewOpened():
            return replace(state, place=replace(state.place, preview_port=data.port, preview_url=data.url))
        case SandboxPaused() | SandboxStalled():
            return state
        case _:
            assert_never(data)


def told(place: Place, reason: str) -> Place:
    """The agent was told what happened to its sandbox."""
    return replace(place, news=()) if reason == "sandbox_restored" else place


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
    if not data.lost:
        return text
    names = data.lost[:_NAMED]
    more = f" and {len(data.lost) - len(names)} more" if len(data.lost) > len(names) else ""
    return f"{text} These files could not be restored: {', '.join(names)}{more}."
