"""The rules of the Messages API for the system prompt, the tools and the cache marks (`cache_control`).

Errors use the vendor's text.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jsonschema_rs

from nightshift.devstack.model.errors import Invalid

_TOOL = frozenset(
    {
        "allowed_callers",
        "cache_control",
        "defer_loading",
        "description",
        "eager_input_streaming",
        "input_examples",
        "input_schema",
        "name",
        "strict",
        "type",
    }
)
_SYSTEM = frozenset({"cache_control", "citations", "text", "type"})
_MARK = frozenset({"ttl", "type"})
_MARKED = frozenset({"document", "image", "text", "tool_result", "tool_use"})
_CHOICES: Mapping[str, frozenset[str]] = {
    "auto": frozenset({"disable_parallel_tool_use", "type"}),
    "any": frozenset({"disable_parallel_tool_use", "type"}),
    "tool": frozenset({"disable_parallel_tool_use", "name", "type"}),
    "none": frozenset({"type"}),
}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_NOT_AT_THE_TOP = ("oneOf", "allOf", "anyOf")
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_MOST_MARKS = 4
_HOUR, _MINUTES = "1h", "5m"


def check_system(system: Any) -> None:
    """Raises Invalid for a system prompt that is not text and no list of text blocks, and for an empty block."""
    if system is None or isinstance(system, str):
        return
    if not isinstance(system, list):
        raise Invalid("system: Input should be a valid list")
    for index, block in enumerate(system):
        place = f"system.{index}"
        if not isinstance(block, dict) or block.get("type") != "text":
            raise Invalid(f"{place}.type: Input should be 'text'")
        _known(block, _SYSTEM, place)
        if not isinstance(block.get("text"), str):
            raise Invalid(f"{place}.text: Field required")
        if not block["text"].strip():
            raise Invalid("system: text content blocks must contain non-whitespace text")


def check_tools(tools: Any) -> None:
    """Raises Invalid for an unknown field of a tool, a wrong or repeated name, and a schema that is not allowed."""
    if tools is None:
        return
    if not isinstance(tools, list):
        raise Invalid("tools: Input should be a valid list")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        place = f"tools.{index}.custom"
        if not isinstance(tool, dict):
            raise Invalid(f"tools.{index}: Input should be a valid dictionary")
        if tool.get("type") not in (None, "custom"):
            raise Invalid(
                f"tools.{index}: Input tag {tool['type']!r} does not match any of the expected tags"
            )
        _known(tool, _TOOL, place)
        name = tool.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Invalid(f"{place}.name: String should match pattern '^{_NAME.pattern}$'")
        if not isinstance(tool.get("description", ""), str):
            raise Invalid(f"{place}.description: Input should be a valid string")
        _check_schema(tool.get("input_schema"), f"{place}.input_schema")
        names.add(name)
    if len(names) != len(tools):
        raise Invalid("tools: Tool names must be unique.")


def _check_schema(schema: Any, place: str) -> None:
    if not isinstance(schema, dict):
        raise Invalid(f"{place}: Field required")
    if schema.get("type") != "object":
        raise Invalid(f"{place}.type: Input should be 'object'")
    if any(name in schema for name in _NOT_AT_THE_TOP):
        raise Invalid(f"{place}: input_schema does not support oneOf, allOf, or anyOf at the top level")
    try:
        jsonschema_rs.meta.validate({**schema, "$schema": _DRAFT})
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError):
        draft = "It must match JSON Schema draft 2020-12 (https://json-schema.org/draft/2020-12)"
        raise Invalid(f"{place}: JSON schema is invalid. {draft}") from None
    for name in schema.get("properties", {}):
        if not _PROPERTY.fullmatch(name):
            raise Invalid(f"{place}.properties: Property keys should match pattern '^{_PROPERTY.pattern}$'")


def check_tool_choice(choice: Any, tools: Collection[str], *, thinks: bool) -> None:
    """Raises Invalid for an unknown kind of tool choice, or one that names a missing tool.

    If `thinks`, also for one that forces a tool, which the API does not allow with thinking.
    """
    if choice is None:
        return
    kind = str(choice.get("type")) if isinstance(choice, dict) else ""
    if kind not in _CHOICES:
        raise Invalid(f"tool_choice: Input should be {', '.join(map(repr, _CHOICES))}")
    _known(choice, _CHOICES[kind], f"tool_choice.{kind}")
    if not tools:
        raise Invalid("tool_choice: may only be specified while providing tools")
    if kind == "tool" and choice.get("name") not in tools:
        raise Invalid(f"tool_choice.tool.name: Tool '{choice.get('name')}' not found in provided tools")
    if thinks and kind in ("any", "tool"):
        raise Invalid("Thinking may not be enabled when tool_choice forces tool use.")


def check_marks(body: Mapping[str, Any]) -> None:
    """Raises Invalid for too many cache marks (`cache_control`), for a wrong mark, or a long-lived mark after a
    short-lived one.
    """
    found = list(_marks(body))
    if len(found) > _MOST_MARKS:
        raise Invalid(
            f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. Found {len(found)}."
        )
    short = False
    for place, block, mark in found:
        if not isinstance(mark, dict) or mark.get("type") != "ephemeral":
            raise Invalid(f"{place}.cache_control.type: Input should be 'ephemeral'")
        _known(mark, _MARK, f"{place}.cache_control")
        if (ttl := mark.get("ttl", _MINUTES)) not in (_HOUR, _MINUTES):
            raise Invalid(f"{place}.cache_control.ttl: Input should be '5m' or '1h'")
        if "input_schema" not in block and block.get("type") not in _MARKED:
            raise Invalid(f"{place}.cache_control: Extra inputs are not permitted")
        if ttl == _HOUR and short:
            raise Invalid(
                f"{place}.cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' "
                "cache_control block. Note that blocks are processed in the following order: `tools`, `system`, "
                "`messages`."
            )
        short = short or ttl == _MINUTES


def lifetime(body: Mapping[str, Any]) -> str | None:
    """Return the lifetime of the last cache mark of a valid request, `5m` or `1h`, or None when there are no marks."""
    lifetimes = [str(mark.get("ttl", _MINUTES)) for _, _, mark in _marks(body)]
    return lifetimes[-1] if lifetimes else None


def _marks(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Yield (place in the request, block, mark) for each cache mark, in the order in which the API reads the marks."""
    for name in ("tools", "system"):
        blocks = body.get(name)
        yield from _marks_of(blocks, name)
    for index, message in enumerate(body["messages"]):
        yield from _marks_of(message["content"], f"messages.{index}.content")


def _marks_of(blocks: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    for index, block in enumerate(blocks if isinstance(blocks, list) else ()):
        if block.get("type") == "tool_result":
            yield from _marks_of(block.get("content"), f"{place}.{index}.content")
        if block.get("cache_control") is not None:
            yield f"{place}.{index}", block, block["cache_control"]


def _known(given: Mapping[str, Any], fields: frozenset[str], place: str) -> None:
    for name in given:
        if name not in fields:
            raise Invalid(f"{place}.{name}: Extra inputs are not permitted")
