"""Removes the texts of people and models from events. Ids, types, sizes, times and money stay."""

from typing import Any

from nightshift.contracts.canonical import dumps, loads
from nightshift.contracts.events.build import BuildAccepted
from nightshift.contracts.marks import sealed_fields
from nightshift.contracts.registry import encode, validate
from nightshift.eventlog.port import RecordedEvent

#: The fields of a content block that stay, because no person or model wrote them.
_OF_A_BLOCK = frozenset({"type", "id", "tool_use_id", "name", "media_type"})


def redacted(event: RecordedEvent) -> RecordedEvent:
    """Returns the event with every text of a person or model replaced by its length. The result is a valid event of
    the same type.
    """
    fact = event.data
    sealed = sealed_fields(type(fact))
    if not sealed:
        return event
    data = loads(encode(fact))
    removed = {name: _removed(value) if name in sealed else value for name, value in data.items()}
    if isinstance(fact, BuildAccepted) and isinstance(fact.idea_brief, dict):
        # The names of its fields may be a person's words too.
        removed["idea_brief"] = _length(dumps(fact.idea_brief))
    return event._replace(data=validate(fact.type, fact.version, removed))


def _removed(value: Any) -> Any:
    """Returns the value with each text in it replaced by the text's length.

    Lists and objects keep their shape. A reference to the object store keeps its size.
    """
    if isinstance(value, str):
        return _length(value)
    if isinstance(value, list):
        return [_removed(one) for one in value]
    if isinstance(value, dict):
        if value.keys() == {"ref", "bytes"}:
            return {"ref": f"sha256:{'0' * 64}", "bytes": value["bytes"]}
        kept = _OF_A_BLOCK if "type" in value else frozenset()
        return {name: one if name in kept else _removed(one) for name, one in value.items()}
    return value


def _length(text: str) -> str:
    return f"[{len(text)} characters]"
