"""Shows the state of a build at one version, to a person or as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from nightshift.cli.text import dollars, joined, text_of
from nightshift.orchestrator.usecases.replay import BuildState


def state_json(state: BuildState) -> dict[str, Any]:
    """Returns the whole state as JSON values, including the conversation."""
    return dict(_plain(state))


def state_fields(state: BuildState, at: datetime) -> dict[str, object]:
    """Returns the parts of a state that a person wants to know: name → value. `at` is when its last event was
    recorded.
    """
    talk, funds, place = state.conversation, state.funds, state.workspace
    open_calls = [call.words or call.tool for call in state.tool_calls if call.result is None]
    return {
        "version": state.version,
        "recorded at": at,
        "phase": state.phase.value,
        "mode": state.mode.value,
        "turn": f"{talk.turn}{'' if talk.answered else ', not answered yet'}",
        "checkpoint": talk.checkpoint or None,
        "messages": len(talk.entries),
        "waiting messages": len(talk.waiting),
        "tool calls": state.tool_calls_made,
        "open tool calls": ", ".join(open_calls) or None,
        "model call": None if state.call is None else f"turn {state.call.turn}, attempt {state.call.attempt}",
        "spent": dollars(funds.spent),
        "reserved": dollars(sum(max(grant.left_microusd, 0) for grant in funds.grants)),
        "waits for": state.waits_for,
        "open questions": ", ".join(one.question_id for one in state.questions) or None,
        "sandbox": place.sandbox_id,
        "preview": place.preview_url,
        "failures": state.counters.failures or None,
        "end": None if state.end is None else state.end.type,
    }


def last_words(state: BuildState) -> Iterator[str]:
    """Yields the texts of the model's last answer, each as one line."""
    for entry in reversed(list(state.conversation.entries)):
        content = getattr(entry, "content", None)
        if isinstance(content, tuple):
            yield from (joined(str(block["text"])) for block in content if block.get("type") == "text")
            return
        if content is not None:
            yield text_of(content)
            return


def _plain(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, frozenset):
        return sorted(_plain(one) for one in value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    if isinstance(value, UUID | datetime):
        return str(value) if isinstance(value, UUID) else value.isoformat()
    return value
