"""Any JSON value, and any event of the catalogue: drawn from its JSON Schema, so that schema and model must agree."""

from datetime import UTC, datetime
from functools import cache
from typing import Any

from hypothesis import strategies as st

from nightshift.contracts.model import Event
from nightshift.contracts.registry import CATALOGUE, validate
from nightshift.contracts.schemas import producer_schema

#: Every code point, lone surrogates and NUL among them.
any_text = st.text(st.characters(), max_size=20)
#: What a length or a pattern can be checked on.
clean_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
any_float = st.floats(allow_nan=False, allow_infinity=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | any_float | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(any_text, json_values, max_size=3)
times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@cache
def event_data(model: type[Event]) -> st.SearchStrategy[dict[str, Any]]:
    """Data that the closed schema of the model allows."""
    schema = producer_schema(model)
    return _value(schema, schema.get("$defs", {})).map(_call_of_its_build)


def _call_of_its_build(data: dict[str, Any]) -> dict[str, Any]:
    """A call belongs to the build it is sent for, which no schema can say."""
    own = {"call_id": f"{data['build_id']}/1/0"} if {"build_id", "call_id"} <= set(data) else {}
    return {**data, **own}


@cache
def events_of(model: type[Event]) -> st.SearchStrategy[Event]:
    """Any valid event of this type."""
    return event_data(model).map(lambda data: validate(model.type, model.version, data))


#: Any valid event.
events = st.sampled_from(list(CATALOGUE.newest.values())).flatmap(events_of)


def _value(schema: dict[str, Any], defs: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return _value(defs[schema["$ref"].removeprefix("#/$defs/")], defs)
    if "anyOf" in schema:
        return st.one_of([_value(option, defs) for option in schema["anyOf"]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(
                schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1),
                schema.get("maximum", 2**53 - 1),
            )
        case "string":
            return _text(schema)
        case "array":
            return st.lists(_value(schema["items"], defs), max_size=2)
        case "object":
            return _object(schema, defs)
    raise AssertionError(f"the schemas hold something new: {schema}")


def _text(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    match schema.get("format"):
        case "date-time":
            return times.map(lambda time: time.isoformat())
        case "date":
            return st.dates().map(str)
        case "uuid":
            return st.uuids().map(str)
        case None:
            pass
        case other:
            raise AssertionError(f"the schemas hold a new format: {other}")
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength")
    if "pattern" in schema and not schema["pattern"].startswith("^[^"):
        return st.from_regex(schema["pattern"], fullmatch=True).filter(
            lambda text: len(text) <= (longest or len(text))
        )
    if longest is None and "pattern" not in schema:
        return any_text
    return clean_text.filter(lambda text: len(text) >= shortest)


def _object(schema: dict[str, Any], defs: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    if "properties" not in schema and schema.get("additionalProperties") is True:
        return json_objects
    required = set(schema.get("required", ()))
    fields = {name: _value(part, defs) for name, part in schema.get("properties", {}).items()}
    return st.fixed_dictionaries(
        {name: part for name, part in fields.items() if name in required},
        optional={name: part for name, part in fields.items() if name not in required},
    )
