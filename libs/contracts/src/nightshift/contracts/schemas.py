"""JSON Schemas of the events' data: open ones for readers, closed ones for producers of requests.

Readers get an open schema, because a closed one would make every added field a breaking change.
"""

from typing import Any, Final

from nightshift.contracts.model import BlobRef, Event
from nightshift.contracts.registry import wire_name
from nightshift.contracts.topics import schema_uri

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def consumer_schema(model: type[Event]) -> Schema:
    """Returns the schema for readers. It allows unknown fields everywhere except in a BlobRef."""
    return _opened(_schema(model, schema_uri(wire_name(model.type, model.version))))


def producer_schema(model: type[Event]) -> Schema:
    """Returns the schema for producers of a request. It refuses unknown fields."""
    return _schema(model, schema_uri(f"producer/{wire_name(model.type, model.version)}"))


def _schema(model: type[Event], uri: str) -> Schema:
    schema = model.model_json_schema(mode="validation")
    schema = _without_titles(schema)
    return {"$schema": DIALECT, "$id": uri, "title": wire_name(model.type, model.version), **schema}


def _without_titles(node: Any) -> Any:
    """Removes the titles that pydantic gives to fields: they repeat the names and double the text."""
    if isinstance(node, list):
        return [_without_titles(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        name: {field: _without_titles(value) for field, value in part.items()}
        if name in {"properties", "$defs"}
        else _without_titles(part)
        for name, part in node.items()
        if not (name == "title" and isinstance(part, str))
    }


def _opened(schema: Schema) -> Schema:
    opened = {name: part for name, part in schema.items() if name != "additionalProperties"}
    opened["$defs"] = {
        name: part
        if name == BlobRef.__name__
        else {key: value for key, value in part.items() if key != "additionalProperties"}
        for name, part in schema.get("$defs", {}).items()
    }
    return opened if opened["$defs"] else {name: part for name, part in opened.items() if name != "$defs"}
