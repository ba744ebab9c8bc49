"""The rules of the Messages API for models, parameters, fields and thinking.

Errors use the vendor's text where known.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from nightshift.contracts import models
from nightshift.contracts.errors import UnknownModel
from nightshift.devstack.model.errors import Invalid

_PARAMETERS = frozenset(
    {
        "cache_control",
        "container",
        "context_management",
        "inference_geo",
        "max_tokens",
        "mcp_servers",
        "messages",
        "metadata",
        "model",
        "output_config",
        "service_tier",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    }
)
#: The parameters of a request to count tokens.
_COUNTED = frozenset(
    {
        "cache_control",
        "context_management",
        "mcp_servers",
        "messages",
        "model",
        "output_config",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
_BLOCKS: Mapping[str, frozenset[str]] = {
    "text": frozenset({"type", "text", "citations", "cache_control"}),
    "thinking": frozenset({"type", "thinking", "signature"}),
    "redacted_thinking": frozenset({"type", "data"}),
    "tool_use": frozenset({"type", "id", "name", "input", "caller", "toolset_name", "cache_control"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error", "toolset_name", "cache_control"}),
    "image": frozenset({"type", "source", "transformations", "cache_control"}),
    "document": frozenset({"type", "source", "title", "context", "citations", "cache_control"}),
}
#: Block type → the media types that its base64 source may have.
_MEDIA: Mapping[str, frozenset[str]] = {
    "image": frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"}),
    "document": frozenset({"application/pdf"}),
}
#: The most characters of base64 text in an image, from the vendor's vision page.
_LARGEST_IMAGE = 10 * 1024 * 1024
_THINKING = ("thinking", "redacted_thinking")
_SMALLEST_BUDGET = 1_024
_THINKING_FIELDS: Mapping[str, frozenset[str]] = {
    "adaptive": frozenset({"block_binding", "display", "type"}),
    "between_tools": frozenset({"block_binding", "display", "type"}),
    "disabled": frozenset({"type"}),
    "enabled": frozenset({"block_binding", "budget_tokens", "display", "type"}),
}
#: What the ids and names of tool calls consist of.
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


def check_parameters(body: Mapping[str, Any], today: date | None = None, *, counting: bool = False) -> None:
    """Raises Invalid for an unknown parameter, an unknown or retired model, or a value that the model does not
    support.

    If `counting`, the body is a request to count tokens, which has fewer parameters. `today` decides which models are
    retired.
    """
    for name in body:
        if name not in (_COUNTED if counting else _PARAMETERS):
            raise Invalid(f"{name}: Extra inputs are not permitted")
    model = body["model"]
    try:
        models.check_usable(model, today or datetime.now(UTC).date())
    except UnknownModel:
        raise Invalid(f"model: {model}", 404) from None
    card = models.card_of(model)
    if not counting and body["max_tokens"] > card.max_output:
        raise Invalid(
            f"max_tokens: {body['max_tokens']} > {card.max_output}, which is the maximum allowed number of output "
            f"tokens for {model}"
        )
    _check_thinking(body.get("thinking"), card, card.max_output if counting else body["max_tokens"])
    output = body.get("output_config") or {}
    for name in set(output) - {"effort", "format"}:
        raise Invalid(f"output_config.{name}: Extra inputs are not permitted")
    effort = output.get("effort")
    if effort is not None and effort not in card.efforts:
        raise Invalid(f"output_config.effort: {effort!r} is not supported by {model}")


def _check_thinking(thinking: Any, card: models.ModelCard, max_tokens: int) -> None:
    if thinking is None:
        return
    for name in thinking if isinstance(thinking, dict) else ():
        if name not in _THINKING_FIELDS.get(str(thinking.get("type")), thinking):
            raise Invalid(f"thinking.{thinking['type']}.{name}: Extra inputs are not permitted")
    match thinking.get("type"):
        case "adaptive" if card.thinking in ("budget", "none"):
            raise Invalid("adaptive thinking is not supported on this model")
        case "enabled" if card.thinking not in ("budget", "either"):
            raise Invalid(
                '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
                '"output_config.effort" to control thinking behavior.'
            )
        case "disabled" if card.thinking == "always":
            raise Invalid('"thinking.type.disabled" is not supported for this model')
        case "enabled":
            budget = thinking.get("budget_tokens")
            if not isinstance(budget, int) or budget < _SMALLEST_BUDGET:
                raise Invalid(
                    f"thinking.enabled.budget_tokens: Input should be greater than or equal to {_SMALLEST_BUDGET}"
                )
            if budget >= max_tokens:
                raise Invalid("`max_tokens` must be greater than `thinking.budget_tokens`")
        case "adaptive" | "disabled" | "between_tools":
            pass
        case other:
            raise Invalid(
                f"thinking.type: Input should be 'adaptive', 'disabled' or 'enabled', not {other!r}"
            )


def check_block(block: Mapping[str, Any], place: str) -> None:
    """Raises Invalid when a content block has an unknown field, a blank text, or a tool input that is not an object."""
    known = _BLOCKS.get(str(block["type"]))
    for name in block:
        if known is not None and name not in known:
            raise Invalid(f"{place}.{block['type']}.{name}: Extra inputs are not permitted")
    if block["type"] == "text" and not str(block.get("text") or "").strip():
        raise Invalid(f"{place}: text content blocks must be non-empty and contain non-whitespace text")
    if block["type"] == "tool_use" and not isinstance(block.get("input"), dict):
        raise Invalid(f"{place}.tool_use.input: Input should be a valid dictionary")
    if block["type"] == "tool_use" and not _ID.fullmatch(str(block.get("id"))):
        raise Invalid(f"{place}.tool_use.id: String should match pattern '^{_ID.pattern}$'")
    if block["type"] == "tool_use" and not _NAME.fullmatch(str(block.get("name"))):
        raise Invalid(f"{place}.tool_use.name: String should match pattern '^{_NAME.pattern}$'")
    if block["type"] == "thinking" and not block.get("signature"):
        raise Invalid(f"{place}.thinking.signature: Field required")
    if block["type"] in _MEDIA:
        _check_source(block.get("source"), str(block["type"]), f"{place}.{block['type']}.source")
    if block["type"] == "tool_result" and isinstance(block.get("content"), list):
        for index, inner in enumerate(block["content"]):
            check_block(inner, f"{place}.tool_result.content.{index}")


def _check_source(source: Any, kind: str, place: str) -> None:
    if not isinstance(source, dict) or source.get("type") != "base64":
        return
    if source.get("media_type") not in _MEDIA[kind]:
        raise Invalid(f"{place}.base64.media_type: Input should be {', '.join(sorted(_MEDIA[kind]))}")
    data = source.get("data")
    try:
        base64.b64decode(data if isinstance(data, str) else "", validate=True)
    except ValueError:
        raise Invalid(f"{place}.base64.data: Invalid base64 data") from None
    if not data:
        raise Invalid(f"{place}.base64.data: Field required")
    if kind == "image" and len(data) > _LARGEST_IMAGE:
        raise Invalid(f"{place}.base64: image exceeds {_LARGEST_IMAGE} bytes maximum: {len(data)} bytes")


def check_thinking_blocks(body: Mapping[str, Any]) -> None:
    """Raises Invalid when an assistant message ends with a thinking block, or content before such a block has
    changed.
    """
    for index, message in enumerate(body["messages"]):
        content = message["content"]
        if message["role"] != "assistant" or isinstance(content, str):
            continue
        if content[-1]["type"] in _THINKING:
            raise Invalid(f"messages.{index}: The final block in an assistant message cannot be `thinking`.")
        for number, block in enumerate(content):
            if block["type"] == "thinking" and block["signature"] != signature(body, index, content[:number]):
                raise Invalid(
                    f"messages.{index}.content.{number}: Invalid `signature` in `thinking` block. The block is bound "
                    "to a different conversation. Remove the block, or set "
                    '`thinking.block_binding.prefix_mismatch_behavior` to "drop_block".'
                )


def signature(body: Mapping[str, Any], messages: int, before: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the signature of a thinking block that follows the first `messages` messages.

    `before` are the blocks before it in its own message. The signature depends on all content before the block, but
    not on cache marks (`cache_control`).
    """
    prefix = [body.get("system"), body.get("tools"), body["messages"][:messages], list(before)]
    text = json.dumps(_unmarked(prefix), sort_keys=True)
    return f"sig_{hashlib.sha256(text.encode()).hexdigest()}"


def _unmarked(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_unmarked(one) for one in value]
    if isinstance(value, dict):
        return {key: _unmarked(one) for key, one in _fields(value)}
    return value


def _fields(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Return the fields of an object without its cache mark (`cache_control`).

    Only blocks and tools can have a cache mark. They are the objects with a `type` or an `input_schema`.
    """
    marked = "type" in value or "input_schema" in value
    return ((key, one) for key, one in value.items() if not (marked and key == "cache_control"))
