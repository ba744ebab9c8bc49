"""Builds the answer to a request, as one message or as a stream of events with the same content."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nightshift.devstack.model.conversation import Conversation
from nightshift.devstack.model.rules import signature
from nightshift.devstack.model.scenario import Turn
from nightshift.devstack.model.tool_rules import lifetime

_CHARACTERS_PER_TOKEN = 4  # a rough estimate, the same for every request
#: The tokens of an image or document: this many, and one more for each so many characters of its base64 text.
_SOURCE_TOKENS, _SOURCE_PER_TOKEN = 1_500, 400

#: HTTP status → error type, as in the real API.
ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(status: int, message: str, *, error_type: str | None = None) -> dict[str, Any]:
    """Return the JSON body of a failed request. A stream sends it as the data of an `error` event."""
    return {
        "type": "error",
        "error": {"type": error_type or ERROR_TYPES.get(status, "api_error"), "message": message},
    }


def message_of(turn: Turn, conversation: Conversation) -> dict[str, Any]:
    """Return the answer as one message. Its ids are derived from the conversation, so a retry gets the same ids."""
    content: list[dict[str, Any]] = []
    if turn.think is not None:
        content.append(
            {
                "type": "thinking",
                "thinking": turn.think,
                "signature": signature(conversation.body, len(conversation.messages)),
            }
        )
    if turn.say is not None:
        content.append({"type": "text", "text": turn.say})
    for index, call in enumerate(turn.calls):
        content.append(
            {
                "type": "tool_use",
                "id": f"toolu_{conversation.digest[:22]}{index:02d}",
                "name": call.tool,
                "input": call.input,
            }
        )
    return {
        "id": f"msg_{conversation.digest[:24]}",
        "type": "message",
        "role": "assistant",
        "model": conversation.body["model"],
        "content": content,
        "stop_reason": turn.stop_reason or ("tool_use" if turn.calls else "end_turn"),
        "stop_sequence": None,
        "stop_details": None,
        "usage": _usage(turn, conversation, content),
    }


def stream_of(message: Mapping[str, Any], *, chunk: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of the message as (event name, data). A delta has at most `chunk` characters."""
    usage = message["usage"]
    opening = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield "message_start", {"type": "message_start", "message": opening}
    yield "ping", {"type": "ping"}
    for index, block in enumerate(message["content"]):
        empty, deltas = _opened(block, chunk)
        yield "content_block_start", {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": index}
    ending = {key: message[key] for key in ("stop_reason", "stop_sequence", "stop_details")}
    yield "message_delta", {"type": "message_delta", "delta": ending, "usage": usage}
    yield "message_stop", {"type": "message_stop"}


def count_tokens(conversation: Conversation) -> int:
    """Return an estimate of the prompt's tokens: one for four characters of text, fewer for images and documents."""
    prompt = {key: conversation.body.get(key) for key in ("system", "tools", "messages")}
    sources: list[str] = []
    text = json.dumps(_without_sources(prompt, sources))
    return _tokens(text) + sum(_SOURCE_TOKENS + len(data) // _SOURCE_PER_TOKEN for data in sources)


def _without_sources(value: Any, sources: list[str]) -> Any:
    """Return the value without the base64 data of images and documents, and append that data to `sources`."""
    if isinstance(value, list):
        return [_without_sources(one, sources) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") == "base64" and isinstance(value.get("data"), str):
        sources.append(value["data"])
        return {}
    return {key: _without_sources(one, sources) for key, one in value.items()}


def _opened(block: Mapping[str, Any], chunk: int) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    match block["type"]:
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}, _thinking_deltas(block, chunk)
        case "text":
            pieces = _pieces(block["text"], chunk)
            return {"type": "text", "text": ""}, ({"type": "text_delta", "text": piece} for piece in pieces)
        case _:
            # The API first sends an empty piece, then pieces of the input's JSON text that may end anywhere.
            pieces = ["", *_pieces(json.dumps(block["input"]), chunk)]
            return {**block, "input": {}}, (
                {"type": "input_json_delta", "partial_json": piece} for piece in pieces
            )


def _thinking_deltas(block: Mapping[str, Any], chunk: int) -> Iterator[dict[str, Any]]:
    for piece in _pieces(block["thinking"], chunk):
        yield {"type": "thinking_delta", "thinking": piece}
    yield {"type": "signature_delta", "signature": block["signature"]}


def _pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def _tokens(text: str) -> int:
    return max(1, len(text) // _CHARACTERS_PER_TOKEN)


def _usage(turn: Turn, conversation: Conversation, content: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the estimated token usage of the answer.

    If the request marks parts for caching, every turn but the first reads the older part of the prompt from the cache.
    The rest is written to the cache.
    """
    whole, kept = count_tokens(conversation), lifetime(conversation.body)
    read = written = 0
    if kept is not None or conversation.body.get("cache_control") is not None:
        new = _tokens(json.dumps(conversation.messages[-2:]))
        read = max(0, whole - new) if conversation.assistant_turns else 0
        written = whole - read
    estimate: dict[str, Any] = {
        "input_tokens": whole - read - written,
        "output_tokens": _tokens(json.dumps(content)),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
    }
    estimate |= turn.usage.model_dump(exclude_none=True)
    written = estimate["cache_creation_input_tokens"]
    estimate["cache_creation"] = {
        "ephemeral_5m_input_tokens": 0 if kept == "1h" else written,
        "ephemeral_1h_input_tokens": written if kept == "1h" else 0,
    }
    return {**estimate, "service_tier": "standard"}
