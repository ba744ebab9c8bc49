"""How events become the conversation: entries in the model's order, one result per tool use, and a bound on tokens.

The bound: what the provider counted at the last answer, and one token per byte of what came since. A token is a byte
at least, so this is never too low, and O(1) a turn.
"""

from dataclasses import replace

from pydantic import ValidationError

from nightshift.contracts import canonical
from nightshift.contracts.events.build import ModelCallResponded, ModelCallStarted, ToolCallRequested
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import BlobRef
from nightshift.contracts.tools import OpenPort
from nightshift.orchestrator.domain.repetition import call_digest
from nightshift.orchestrator.domain.state import (
    AssistantSaid,
    Blocks,
    BuildState,
    Conversation,
    Observation,
    PreviewTarget,
    Text,
    ToolCall,
    ToolsAnswered,
    UserSaid,
)

#: What a tool call is answered with when its answer was cut and nothing of it was run.
CUT = "Not run: your answer was cut off at its output limit. Answer in smaller steps."
#: The model's stop reason for that.
MAX_TOKENS = "max_tokens"
#: An image is at most about 4,800 tokens, whatever its bytes (Anthropic's vision page).
_IMAGE_TOKENS = 5_000
#: Around each piece of content.
_FRAME_TOKENS = 30


def say(conversation: Conversation, message: Text) -> Conversation:
    """Something to be told with the next model call."""
    return replace(
        conversation,
        waiting=(*conversation.waiting, message),
        tokens=_more(conversation.tokens, tokens_of(message)),
    )


def started(conversation: Conversation, data: ModelCallStarted) -> Conversation:
    """What waited is told now."""
    told = tuple(UserSaid(text) for text in conversation.waiting)
    return replace(
        conversation,
        turn=data.turn,
        attempt=data.attempt,
        answered=False,
        entries=conversation.entries + told,
        waiting=(),
    )


def responded(conversation: Conversation, data: ModelCallResponded) -> Conversation:
    entries = (*conversation.entries, AssistantSaid(data.turn, data.content))
    tokens = _counted(conversation, data)
    if data.stop_reason == MAX_TOKENS and (cut := _cut_calls(data.content)):
        entries = (*entries, ToolsAnswered(cut))
        tokens = _more(tokens, sum(tokens_of(result.output) for result in cut))
    return replace(conversation, answered=True, entries=entries, tokens=tokens)


def _counted(conversation: Conversation, data: ModelCallResponded) -> int | None:
    """The bound after an answer. Where the provider states no prompt tokens, the bound before the call still holds."""
    usage = data.usage
    prompt = (
        usage.input_tokens
        + usage.cache_read_input_tokens
        + usage.cache_write_5m_input_tokens
        + usage.cache_write_1h_input_tokens
    )
    if prompt == 0:
        return _more(conversation.tokens, _blocks_bytes(data.content))
    return prompt + usage.output_tokens + sum(tokens_of(text) for text in conversation.waiting)


def requested(state: BuildState, data: ToolCallRequested) -> BuildState:
    """A tool call was asked for. Only the agent's own count towards its limit."""
    call = ToolCall(
        data.call_id,
        data.index,
        data.tool,
        data.tool_use_id,
        data.purpose,
        call_digest(data.tool, data.input),
        _preview(data),
    )
    made = state.tool_calls_made + (data.purpose == "agent")
    return replace(state, tool_calls=(*state.tool_calls, call), tool_calls_made=made)


def _preview(data: ToolCallRequested) -> PreviewTarget | None:
    if data.tool != OpenPort.tool or data.purpose != "agent":
        return None
    try:
        asked = OpenPort.model_validate(data.input)
    except ValidationError:
        return None  # the gateway refuses it
    return PreviewTarget(asked.port, asked.path)


def completed(state: BuildState, data: ToolCallCompleted) -> BuildState:
    """A result is in. With the last one of the agent's calls, all of them join the conversation."""
    calls = tuple(
        replace(call, result=data) if call.call_id == data.call_id else call for call in state.tool_calls
    )
    results = tuple(_observation(call, call.result) for call in calls if call.result is not None)
    if len(results) < len(calls) or any(call.purpose != "agent" for call in calls):
        return replace(state, tool_calls=calls)
    tokens = sum(tokens_of(result.output) + _blocks_tokens(result.blocks) for result in results)
    conversation = replace(
        state.conversation,
        entries=(*state.conversation.entries, ToolsAnswered(results)),
        tokens=_more(state.conversation.tokens, tokens),
    )
    return replace(state, tool_calls=(), conversation=conversation)


def tokens_of(text: Text) -> int:
    """An upper bound: a token is a byte at least."""
    if isinstance(text, BlobRef):
        return text.bytes + _FRAME_TOKENS
    return len(text.encode("utf-8", "surrogatepass")) + _FRAME_TOKENS


def _blocks_bytes(blocks: Blocks) -> int:
    return blocks.bytes if isinstance(blocks, BlobRef) else len(canonical.dumps(blocks))


def _blocks_tokens(blocks: Blocks | None) -> int:
    if blocks is None:
        return 0
    if isinstance(blocks, BlobRef):
        return blocks.bytes
    return sum(
        _IMAGE_TOKENS if block.get("type") == "image" else tokens_of(str(block.get("text", block)))
        for block in blocks
    )


def _observation(call: ToolCall, result: ToolCallCompleted) -> Observation:
    return Observation(call.tool_use_id, result.is_error, result.output, result.blocks)


def _cut_calls(content: Blocks) -> tuple[Observation, ...]:
    if isinstance(content, BlobRef):
        return ()
    return tuple(
        Observation(str(block["id"]), True, CUT) for block in content if block.get("type") == "tool_use"
    )


def _more(tokens: int | None, more: int) -> int | None:
    return None if tokens is None else tokens + more
