"""Folds events into the conversation: its entries in the model's order, and an upper bound of its tokens.

The bound is the provider's count at the last answer, plus one token for each later byte. A token has at least one byte,
so the bound is never too low.
"""

from collections.abc import Sequence
from typing import Any, assert_never

from pydantic import ValidationError

from nightshift.contracts import canonical
from nightshift.contracts.events.build import ModelCallResponded, ModelCallStarted, ToolCallRequested
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import BlobRef
from nightshift.contracts.tools import OpenPort
from nightshift.orchestrator.domain import limits_left
from nightshift.orchestrator.domain.repetition import call_digest, call_in_words
from nightshift.orchestrator.domain.replace import replace
from nightshift.orchestrator.domain.state import (
    AssistantMessage,
    Blocks,
    BuildState,
    Conversation,
    Entry,
    PreviewTarget,
    Text,
    ToolCall,
    ToolResult,
    ToolResults,
    UserMessage,
)
from nightshift.orchestrator.domain.writing_calls import may_write

#: The result of a tool call in an answer that was cut off. Such a call does not run.
CUT = "Not run: your answer was cut off at its output limit. Answer in smaller steps."
#: The stop reason of an answer that was cut off at its output limit.
MAX_TOKENS = "max_tokens"
#: The stop reason of an answer for which the model's context had no more room.
NO_ROOM = "model_context_window_exceeded"
#: An upper bound of the tokens of an image, whatever its bytes. The real maximum is about 4,800 (Anthropic's vision
#: page).
IMAGE_TOKENS = 5_000
#: The reasons of messages that people wrote.
_PEOPLE = frozenset({"person", "answer"})
#: The tokens that frame each block of content.
_FRAME_TOKENS = 30


def add_message(conversation: Conversation, message: Text, reason: str) -> Conversation:
    """Add a message to those that the next model call sends.

    If `reason` says that a person wrote the message, its words are also kept when the conversation is condensed.
    """
    return replace(
        conversation,
        waiting=(*conversation.waiting, message),
        said=(*conversation.said, message) if reason in _PEOPLE else conversation.said,
        tokens=_more(conversation.tokens, tokens_of(message)),
    )


def started(state: BuildState, data: ModelCallStarted) -> Conversation:
    """Fold the start of a model call: move the waiting messages into the conversation, because the call sends them.

    A line about the remaining limits follows when it says something new.
    """
    conversation = state.conversation
    texts, tokens = conversation.waiting, conversation.tokens
    levels = limits_left.levels(state, data.turn)
    if levels != conversation.limits_told:
        line = limits_left.limits_left(state, data.turn)
        texts, tokens = (*texts, line), _more(tokens, tokens_of(line))
    begins = conversation.turn > 0 and not any(map(_is_sent, conversation.entries[conversation.sent :]))
    messages = tuple(UserMessage(text, begins and index == 0) for index, text in enumerate(texts))
    entries = conversation.entries.plus(*messages)
    return replace(
        conversation,
        turn=data.turn,
        attempt=data.attempt,
        answered=False,
        entries=entries,
        waiting=(),
        sent=len(entries),
        limits_told=levels,
        tokens=tokens,
    )


def _is_sent(entry: Entry) -> bool:
    """Return whether requests to the model contain the entry. Returns False for an answer without visible content."""
    if isinstance(entry, AssistantMessage) and not isinstance(entry.content, BlobRef):
        return any(map(is_visible, entry.content))
    return True


def is_visible(block: dict[str, Any]) -> bool:
    """Return whether the API accepts the block when it is sent back.

    The model sometimes sends a text of only spaces, which the API refuses later.
    """
    return block.get("type") != "text" or bool(str(block.get("text", "")).strip())


def responded(conversation: Conversation, data: ModelCallResponded) -> Conversation:
    entries = conversation.entries.plus(AssistantMessage(data.turn, data.content))
    tokens = _counted(conversation, data)
    if data.stop_reason in (MAX_TOKENS, NO_ROOM) and (cut := _cut_calls(data.content)):
        entries = entries.plus(ToolResults(cut))
        tokens = _more(tokens, sum(tokens_of(result.output) for result in cut))
    return replace(
        conversation,
        answered=True,
        entries=entries,
        tokens=tokens,
        counted=_prompt(data) + data.usage.output_tokens if _prompt(data) else conversation.counted,
        too_long=data.stop_reason == NO_ROOM,
    )


def _prompt(data: ModelCallResponded) -> int:
    usage = data.usage
    cached = usage.cache_write_5m_input_tokens + usage.cache_write_1h_input_tokens
    return usage.input_tokens + usage.cache_read_input_tokens + cached


def _counted(conversation: Conversation, data: ModelCallResponded) -> int | None:
    """Return the upper bound of the conversation's tokens after an answer.

    When the provider states no prompt size, the earlier bound grows by the bytes of the answer.
    """
    prompt = _prompt(data)
    if prompt == 0:
        return _more(conversation.tokens, _blocks_bytes(data.content))
    return prompt + data.usage.output_tokens + sum(tokens_of(text) for text in conversation.waiting)


def requested(state: BuildState, data: ToolCallRequested) -> BuildState:
    """Fold a requested tool call: add it to the build's open calls, unless its request for approval already did.

    Only calls of the agent count towards the limit of tool calls. A setup command is noted in the workspace instead.
    """
    if data.purpose == "setup":
        return replace(state, workspace=replace(state.workspace, preparing=data.call_id))
    if any(call.call_id == data.call_id for call in state.tool_calls):
        return state
    call = ToolCall(
        data.call_id,
        data.index,
        data.tool,
        data.tool_use_id,
        data.purpose,
        call_digest(data.tool, data.input),
        call_in_words(data.tool, data.input),
        _preview(data),
        may_write=not state.wrote and may_write(data.tool, data.input),
    )
    made = state.tool_calls_made + call.by_agent
    return replace(state, tool_calls=(*state.tool_calls, call), tool_calls_made=made)


def _preview(data: ToolCallRequested) -> PreviewTarget | None:
    if data.tool != OpenPort.tool or data.purpose != "agent":
        return None
    try:
        asked = OpenPort.model_validate(data.input)
    except ValidationError:
        return None  # the sandbox gateway refuses such a call
    return PreviewTarget(asked.port, asked.path)


def completed(state: BuildState, data: ToolCallCompleted) -> BuildState:
    """Fold the result of a tool call.

    After the last result of an answer's calls, all results become one entry of the conversation.
    """
    calls = tuple(
        replace(call, result=data) if call.call_id == data.call_id else call for call in state.tool_calls
    )
    asked = tuple(call for call in calls if call.purpose != "instructions")
    answered = all(call.result is not None and call.by_agent for call in asked)
    wanted = max(len(asked), _calls_of(state.conversation.entries))
    if not answered or len(asked) < wanted or any(call.result is None for call in calls):
        return replace(state, tool_calls=calls)
    results = tuple(map(observation, asked))
    return replace(state, tool_calls=(), conversation=with_results(state.conversation, results))


def with_results(conversation: Conversation, results: tuple[ToolResult, ...]) -> Conversation:
    """Return the conversation with the results of an answer's tool calls as its last entry."""
    tokens = sum(tokens_of(result.output) + blocks_tokens(result.blocks) for result in results)
    return replace(
        conversation,
        entries=conversation.entries.plus(ToolResults(results)),
        tokens=_more(conversation.tokens, tokens),
    )


def with_message(conversation: Conversation, text: str) -> Conversation:
    """Return the conversation with a message of the loop as its last entry."""
    return replace(
        conversation,
        entries=conversation.entries.plus(UserMessage(text)),
        tokens=_more(conversation.tokens, tokens_of(text)),
    )


def _calls_of(entries: Sequence[Entry]) -> int:
    """Return the number of tool calls in the newest entry: 0 unless it is an answer of the model.

    Some of these calls may not be requested yet.
    """
    entry = entries[-1] if entries else None
    if not isinstance(entry, AssistantMessage) or isinstance(entry.content, BlobRef):
        return 0
    return sum(block.get("type") == "tool_use" for block in entry.content)


def tokens_of(text: Text) -> int:
    """Return an upper bound of the tokens of a text: one token for each byte."""
    if isinstance(text, BlobRef):
        return text.bytes + _FRAME_TOKENS
    return len(text.encode("utf-8", "surrogatepass")) + _FRAME_TOKENS


def entry_tokens(entry: Entry) -> int:
    """Return an upper bound of the tokens of an entry."""
    match entry:
        case AssistantMessage():
            return _blocks_bytes(entry.content)
        case ToolResults():
            return sum(tokens_of(one.output) + blocks_tokens(one.blocks) for one in entry.results)
        case UserMessage():
            return tokens_of(entry.text)
        case _:
            assert_never(entry)


def _blocks_bytes(blocks: Blocks) -> int:
    return blocks.bytes if isinstance(blocks, BlobRef) else len(canonical.dumps(blocks))


def blocks_tokens(blocks: Blocks | None) -> int:
    """Return an upper bound of the tokens of content blocks that are not the model's own."""
    if blocks is None:
        return 0
    if isinstance(blocks, BlobRef):
        return blocks.bytes
    return sum(map(_block_tokens, blocks))


def _block_tokens(block: dict[str, Any]) -> int:
    match block.get("type"):
        case "image":
            return IMAGE_TOKENS
        case "document":
            # A document has at least as many bytes as tokens. Base64 has four characters for three bytes.
            return len(str(block.get("source", {}).get("data", ""))) * 3 // 4
        case _:
            return tokens_of(str(block.get("text", block)))


def observation(call: ToolCall) -> ToolResult:
    """Return the result of a call in the form of the conversation. Raises ValueError when the call has no result."""
    if call.result is None:
        raise ValueError(f"the call {call.call_id} has no result")
    return ToolResult(call.tool_use_id, call.result.is_error, call.result.output, call.result.blocks)


def _cut_calls(content: Blocks) -> tuple[ToolResult, ...]:
    if isinstance(content, BlobRef):
        return ()
    return tuple(
        ToolResult(str(block["id"]), True, CUT) for block in content if block.get("type") == "tool_use"
    )


def _more(tokens: int | None, more: int) -> int | None:
    return None if tokens is None else tokens + more
