"""The tools that a request brought. Checks their schemas and inputs, folds their calls, and decides about results."""

import json
import re
from functools import lru_cache
from typing import Any

import jsonschema_rs

from nightshift.contracts import canonical
from nightshift.contracts.events.build import ToolCallAnswered, ToolCallRequested
from nightshift.contracts.events.requests import CustomTool, ToolCallResultGiven
from nightshift.contracts.model import Event
from nightshift.contracts.tools import TOOLS
from nightshift.eventlog.errors import BadMessage
from nightshift.orchestrator.domain.commands import GiveResult
from nightshift.orchestrator.domain.replace import replace
from nightshift.orchestrator.domain.state import BuildState, CustomerCall

Events = tuple[Event, ...]

#: The rules of the Messages API for a tool's schema.
_NOT_AT_THE_TOP = ("oneOf", "allOf", "anyOf")
_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
#: The most bytes of a tool's schema and of all schemas, and the most steps in which a pattern may match one text.
_LARGEST, _LARGEST_OF_ALL = 50_000, 200_000
_PATTERN_STEPS = 100_000
#: The most mistakes that a message names, and the most characters of each.
_NAMED, _SHOWN = 5, 300

_ENDED = "Not answered: the build ended."
_NO_RESULT = "The tool did not answer within {timeout_s} s, and its call is over."


def check_tools(offered: tuple[CustomTool, ...]) -> None:
    """Raise BadMessage, which names the field, for a tool that the Messages API would refuse.

    Also for a tool with the name of another tool, or of one of the agent's own tools.
    """
    seen: set[str] = set(TOOLS)
    total = 0
    for number, tool in enumerate(offered):
        if tool.name in seen:
            whose = "the agent's own" if tool.name in TOOLS else "another tool's"
            raise _refused(f"tools.{number}.name", f"`{tool.name}` is {whose} name")
        seen.add(tool.name)
        total += (size := len(canonical.dumps(tool.input_schema)))
        schema = f"tools.{number}.input_schema"
        if size > _LARGEST or total > _LARGEST_OF_ALL:
            raise _refused(schema, f"the schemas are too large: {total} bytes so far")
        if (wrong := _wrong_schema(tool.input_schema)) is not None:
            raise _refused(schema, wrong)


def _refused(field: str, why: str) -> BadMessage:
    return BadMessage(f"`{field}`: {why}", field=field)


def _wrong_schema(schema: dict[str, Any]) -> str | None:
    if schema.get("type") != "object":
        return '`type` must be "object"'
    for name in _NOT_AT_THE_TOP:
        if name in schema:
            return f"`{name}` is not allowed at the top level"
    properties = schema.get("properties", {})
    for name in properties if isinstance(properties, dict) else ():
        if not _PROPERTY.fullmatch(name):
            return f"the property {name[:80]!r} must match ^{_PROPERTY.pattern}$"
    try:
        _compiled(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        return f"no JSON Schema of draft 2020-12: {_one_line(error)}"
    return None


def _compiled(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """Return a validator for the schema. Raises ValidationError or ReferencingError when the schema is invalid.

    The validator fetches nothing that a schema refers to.
    """
    jsonschema_rs.meta.validate({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"})
    options = jsonschema_rs.FancyRegexOptions(backtrack_limit=_PATTERN_STEPS)
    return jsonschema_rs.Draft202012Validator(schema, pattern_options=options, offline=True)


@lru_cache(256)
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    return _compiled(canonical.loads(schema))


def named(state: BuildState, name: str) -> CustomTool | None:
    """Return the request's tool with this name, or None."""
    return next((tool for tool in state.request.tools if tool.name == name), None)


def wrong_input(tool: CustomTool, given: Any) -> str | None:
    """Return a text for the agent that says what is wrong with the input of a call to this tool.

    Returns None when the tool's schema accepts the input.
    """
    errors = _validator(canonical.dumps(tool.input_schema)).iter_errors(given)
    found: list[str] = []
    for error in errors:
        if len(found) == _NAMED:
            found.append("and more")
            break
        place = ".".join(map(str, error.instance_path)) or "input"
        found.append(f"{place}: {_one_line(error)}")
    return "; ".join(found) or None


def _one_line(error: Exception) -> str:
    text = " ".join(str(getattr(error, "message", error)).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def requested(state: BuildState, data: ToolCallRequested) -> BuildState:
    """Fold a requested call of a customer's tool: add it to the calls that a consumer of the customer must answer."""
    tool = named(state, data.tool)
    call = CustomerCall(
        data.call_id, data.timeout_s, data.deadline, None if tool is None else tool.default_output
    )
    return replace(state, customer_calls=(*state.customer_calls, call))


def answered(state: BuildState, call_id: str) -> BuildState:
    return replace(state, customer_calls=tuple(one for one in state.customer_calls if one.call_id != call_id))


def open_call(state: BuildState, call_id: str) -> CustomerCall | None:
    """Return the open call of a customer's tool with this id, or None."""
    return next((one for one in state.customer_calls if one.call_id == call_id), None)


def output_of(request: ToolCallResultGiven) -> str:
    """Return what the agent reads as the result of a customer's tool.

    This is the result's output, then its data as indented JSON with sorted keys.
    """
    data = request.data
    shown = (
        None if data is None else json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    )
    return "\n".join(part for part in (request.output, shown) if part)


def overdue(call: CustomerCall) -> GiveResult:
    """Return the result for a call whose deadline has passed: the tool's default, or an error."""
    if call.default is not None:
        return GiveResult(call.call_id, is_error=False, output=call.default)
    return GiveResult(call.call_id, is_error=True, output=_NO_RESULT.format(timeout_s=call.timeout_s))


def give(state: BuildState, command: GiveResult) -> Events:
    """Return the events that give a call of a customer's tool its result. Returns none when the call is not open."""
    if open_call(state, command.call_id) is None:
        return ()
    by_default = command.cause is None
    return (
        ToolCallAnswered(
            call_id=command.call_id,
            is_error=command.is_error,
            output=command.output,
            by="default" if by_default else "customer",
        ),
    )


def closed(state: BuildState) -> Events:
    """Return the events that close the open calls of customer's tools when their build ends."""
    return tuple(
        ToolCallAnswered(call_id=one.call_id, is_error=True, output=_ENDED, by="cancelled")
        for one in state.customer_calls
    )
