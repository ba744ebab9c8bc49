"""Checks whether a reader of one JSON Schema can read everything that a writer of another one writes.

It knows the part of JSON Schema that our models produce, and reports everything that it cannot prove compatible.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

Schema = Mapping[str, Any]

_LOWER_BOUNDS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SAME: Final = ("pattern", "format", "multipleOf")


def full(old: Schema, new: Schema) -> list[str]:
    """Returns why facts of two schemas are incompatible in either direction. Empty when they are compatible."""
    return [
        *(f"new code cannot read old data: {reason}" for reason in breaks(reader=new, writer=old)),
        *(f"old code cannot read new data: {reason}" for reason in breaks(reader=old, writer=new)),
    ]


def backward(old: Schema, new: Schema) -> list[str]:
    """Returns why requests of old producers would be refused now. Empty when they are accepted."""
    return [f"old producers are refused: {reason}" for reason in breaks(reader=new, writer=old)]


def breaks(*, reader: Schema, writer: Schema) -> list[str]:
    """Returns what the writer may write and the reader refuses, each with its path."""
    pair = _Pair(reader, writer)
    found = list(pair.differences(reader, writer, "data"))
    # A changed part may still fit a free object beside it in a union, so it is compared by its name too.
    for name, part in writer.get("$defs", {}).items():
        if name in reader.get("$defs", {}):
            found += pair.differences(reader["$defs"][name], part, name)
    return found


class _Pair:
    """Compares two schema documents and resolves the references in each."""

    def __init__(self, reader: Schema, writer: Schema) -> None:
        self._reader = reader
        self._writer = writer

    def differences(self, reader: Schema, writer: Schema, path: str) -> Iterator[str]:
        reader, writer = _resolved(self._reader, reader), _resolved(self._writer, writer)
        if not _constrains(reader):
            return
        if "anyOf" in writer:
            for option in writer["anyOf"]:
                yield from self.differences(reader, option, path)
        elif "anyOf" in reader:
            if all(any(self.differences(option, writer, path)) for option in reader["anyOf"]):
                yield f"{path}: no alternative of the reader takes {_kind(writer)}"
        else:
            yield from self._plain(reader, writer, path)

    def _plain(self, reader: Schema, writer: Schema, path: str) -> Iterator[str]:
        kind = _kind(reader)
        if kind != "any" and kind != _kind(writer) and (kind, _kind(writer)) != ("number", "integer"):
            yield f"{path}: {_kind(writer)} where {kind} is read"
            return
        yield from _values(reader, writer, path)
        yield from _bounds(reader, writer, path)
        if kind == "object":
            yield from self._object(reader, writer, path)
        elif kind == "array" and "items" in reader:
            yield from self.differences(reader["items"], writer.get("items", {}), f"{path}[]")

    def _object(self, reader: Schema, writer: Schema, path: str) -> Iterator[str]:
        known: Schema = reader.get("properties", {})
        written: Schema = {
            **{name: {} for name in writer.get("required", ())},
            **writer.get("properties", {}),
        }
        for name in reader.get("required", ()):
            if name not in writer.get("required", ()):
                yield f"{path}.{name}: required, but not always written"
        others = reader.get("additionalProperties", True)
        for name, part in written.items():
            if name in known:
                yield from self.differences(known[name], part, f"{path}.{name}")
            elif others is False:
                yield f"{path}.{name}: written, but refused as unknown"
            elif isinstance(others, Mapping):
                yield from self.differences(others, part, f"{path}.{name}")
        free = writer.get("additionalProperties")
        if free is None or free is False or others is True:
            return
        if others is False:
            yield f"{path}: any name is written, only known ones are read"
        else:
            yield from self.differences(others, free if isinstance(free, Mapping) else {}, f"{path}.*")


def _resolved(document: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        schema = document["$defs"][name]
    return schema


_ANNOTATIONS: Final = {"title", "description", "default", "examples", "$schema", "$id", "$defs"}


def _constrains(schema: Schema) -> bool:
    return any(name not in _ANNOTATIONS and not name.startswith("x-") for name in schema)


def _kind(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    values = _allowed(schema)
    if values is None:
        return "any"
    kinds = {"string" if isinstance(value, str) else type(value).__name__ for value in values}
    return kinds.pop() if len(kinds) == 1 else "any"


def _allowed(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _values(reader: Schema, writer: Schema, path: str) -> Iterator[str]:
    allowed, written = _allowed(reader), _allowed(writer)
    if allowed is None:
        return
    if written is None:
        yield f"{path}: any {_kind(writer)} is written, only {allowed} are read"
    elif missing := [value for value in written if value not in allowed]:
        yield f"{path}: {missing} are written, but not read"


def _bounds(reader: Schema, writer: Schema, path: str) -> Iterator[str]:
    for bound in _LOWER_BOUNDS:
        if bound in reader and (bound not in writer or writer[bound] < reader[bound]):
            yield f"{path}: {bound} {reader[bound]} is read, {writer.get(bound, 'none')} is written"
    for bound in _UPPER_BOUNDS:
        if bound in reader and (bound not in writer or writer[bound] > reader[bound]):
            yield f"{path}: {bound} {reader[bound]} is read, {writer.get(bound, 'none')} is written"
    for rule in _SAME:
        if rule in reader and not _enumerated(writer) and reader[rule] != writer.get(rule):
            yield f"{path}: {rule} {reader[rule]} is read, {writer.get(rule, 'none')} is written"


def _enumerated(schema: Schema) -> bool:
    return _allowed(schema) is not None
