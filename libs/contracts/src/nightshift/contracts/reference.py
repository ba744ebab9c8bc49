"""Generates docs/reference/events.md, the reference of all events."""

from collections.abc import Iterator
from typing import Any

from nightshift.contracts.marks import blob_fields, sealed_fields
from nightshift.contracts.model import Event, Owner, Request
from nightshift.contracts.readers import readers_of, subscribed
from nightshift.contracts.registry import CATALOGUE, wire_name
from nightshift.contracts.schemas import consumer_schema
from nightshift.contracts.topics import FAMILIES, Topics

_TOPICS = Topics()


def events_page() -> str:
    """Returns the reference page as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Events"
    yield ""
    yield "Generated from the contracts by `python -m nightshift.contracts.generate`; do not edit."
    yield "*sealed*: free text, can be sealed with the project's key. *by reference*: over 32 KiB it is kept in the"
    yield "object store, with `{ref, bytes}` in its place."
    for owner, family in FAMILIES.items():
        readers = ", ".join(f"`{reader}`" for reader, read, _ in subscribed() if read == family)
        yield ""
        yield f"## {_TOPICS.prefix}.{family}.v1"
        yield ""
        sender = "Sent from outside" if owner is Owner.OUTSIDE else f"Appended by the {owner}"
        yield f"{sender}. Subscribers: {readers}."
        for model in CATALOGUE.newest.values():
            if model.owner is owner:
                yield from _event(model)
    yield ""
    yield "## Types"
    yield ""
    yield "The types that the fields of several events have."
    for name, schema in sorted(_types().items()):
        yield from _named_type(name, schema)


def _types() -> dict[str, dict[str, Any]]:
    """Returns the JSON Schema of each type that a field refers to by its name."""
    found: dict[str, dict[str, Any]] = {}
    for model in CATALOGUE.newest.values():
        found |= consumer_schema(model).get("$defs", {})
    return found


def _named_type(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield f"### {name}"
    yield ""
    values = f"One of {_type(schema)}." if "enum" in schema else ""
    yield " ".join([*schema.get("description", "").split(), values]).strip()
    if not (fields := schema.get("properties", {})):
        return
    required = schema.get("required", ())
    yield ""
    yield "| field | type | |"
    yield "|---|---|---|"
    for field, of in fields.items():
        yield f"| `{field}` | {_type(of)} | {'required' if field in required else _default(of)} |"


def _event(model: type[Event]) -> Iterator[str]:
    yield ""
    yield f"### {model.type}"
    yield ""
    marks = [f"`{wire_name(model.type, model.version)}`", f"on the {model.stream}'s stream"]
    if model.terminal:
        marks.append("ends it")
    if model.after_close:
        marks.append("may follow its end")
    yield ", ".join(marks) + f". {_handled_by(model)}"
    yield ""
    yield " ".join((model.__doc__ or "").split())
    fields = consumer_schema(model).get("properties", {})
    if not fields:
        return
    yield ""
    yield "| field | type | |"
    yield "|---|---|---|"
    for name, schema in fields.items():
        required = model.model_fields[name].is_required()
        notes = ["required" if required else _default(schema)]
        if issubclass(model, Request) and name in model.unsupported_fields:
            default = schema.get("default")
            unless = f" unless `{default}`" if isinstance(default, str) else ""
            notes = [f"refused by this version{unless}"]
        notes += ["sealed"] if name in sealed_fields(model) else []
        notes += ["by reference"] if name in blob_fields(model) else []
        yield f"| `{name}` | {_type(schema)} | {', '.join(notes)} |"


def _handled_by(model: type[Event]) -> str:
    if model.planned:
        return "Planned: no service of this version appends it."
    readers = ", ".join(f"`{reader}`" for reader in readers_of(model))
    if not readers:
        return "No service subscribes to it; services read it from the log."
    if issubclass(model, Request) and not model.supported:
        return f"Handled by {readers}, which refuses it: this version does not support it."
    return f"Handled by {readers}."


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return "optional" if default in (None, [], {}) else f"default `{default}`"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("format", schema.get("type", "any")))
