"""Generates the JSON Schemas of event data: open schemas for consumers, closed schemas for producers of requests.

Open schemas allow unknown fields; otherwise each new field would break the consumers.
"""

from typing import Any, Final

from nightshift.contracts.model import BlobRef, Event
from nightshift.contracts.registry import wire_name
from nightshift.contracts.topics import schema_uri

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def consumer_schema(model: type[Event]) -> Schema:
    """Returns the schema for consumers of an event. It allows unknown fields everywhere except in a BlobRef."""
    schema = _schema(model, schema_uri(wire_name(model.type, model.version)))
    for name, part in {"": schema, **schema.get("$defs", {})}.items():
        if name != BlobRef.__name__:
            part.pop("additionalProperties", None)
    return schema


def producer_schema(model: type[Event]) -> Schema:
    """Returns the schema for producers of a request. It does not allow unknown fields."""
    return _schema(model, schema_uri(f"producer/{wire_name(model.type, model.version)}"))


def _schema(model: type[Event], uri: str) -> Schema:
    schema = _without_titles(model.model_json_schema(mode="validation"))
    return {"$schema": DIALECT, "$id": uri, "title": wire_name(model.type, model.version), **schema}


def _without_titles(node: Any) -> Any:
    """Returns the schema without pydantic's titles, which only repeat the names of fields and classes."""
    if isinstance(node, list):
        return [_without_titles(item) for item in node]
    if not isinstance(node, dict):
        return node
    # When a field is called `title`, this entry is the field's schema and not a text.
    titled = isinstance(node.get("title"), str)
    return {name: _without_titles(part) for name, part in node.items() if name != "title" or not titled}
