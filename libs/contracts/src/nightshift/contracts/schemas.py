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
    schema = _schema(model, schema_uri(wire_name(model.type, model.version)))
    for name, part in {"": schema, **schema.get("$defs", {})}.items():
        if name != BlobRef.__name__:
            part.pop("additionalProperties", None)
    return schema


def producer_schema(model: type[Event]) -> Schema:
    """Returns the schema for producers of a request. It refuses unknown fields."""
    return _schema(model, schema_uri(f"producer/{wire_name(model.type, model.version)}"))


def _schema(model: type[Event], uri: str) -> Schema:
    schema = _without_titles(model.model_json_schema(mode="validation"))
    return {"$schema": DIALECT, "$id": uri, "title": wire_name(model.type, model.version), **schema}


def _without_titles(node: Any) -> Any:
    """Returns the schema without the titles that pydantic adds. They only repeat the names of fields and classes."""
    if isinstance(node, list):
        return [_without_titles(item) for item in node]
    if not isinstance(node, dict):
        return node
    # The `title` of a field that is called so is a schema, not a text.
    titled = isinstance(node.get("title"), str)
    return {name: _without_titles(part) for name, part in node.items() if name != "title" or not titled}
