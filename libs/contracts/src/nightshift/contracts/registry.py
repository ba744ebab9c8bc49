"""Finds event models by type and version or by wire name, and encodes and decodes the data of events."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any, Final, Literal, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nightshift.contracts import canonical
from nightshift.contracts.errors import InvalidData, UnknownType, UnknownVersion
from nightshift.contracts.events import AnyEvent
from nightshift.contracts.marks import blob_fields
from nightshift.contracts.model import Event, Owner
from nightshift.contracts.topics import wire_base
from nightshift.contracts.upcasts import UPCASTS, Upcast

#: Integers below this are encoded the fast way: they never reach the interpreter's limit of digits.
_PLAIN = 2**63
_WIRE_NAME = re.compile(r"(nightshift\.[a-z-]+\.[a-z0-9_]+)\.v([1-9][0-9]{0,8})")


def encode(event: Event) -> str:
    """Returns the data of an event as canonical JSON text. Optional fields that are None are left out.

    Raises InvalidData for a value without a JSON form, such as NaN in the input of a tool.
    """
    parts: list[bytes] = []
    fields = event.__dict__
    for name, label in _labels(type(event)):
        value: Any = fields.get(name)
        kind = type(value)
        if kind is str:
            parts += label, canonical.text(value)
        elif kind is int and -_PLAIN < value < _PLAIN:
            parts += label, b"%d" % value
        elif value is not None:  # a nested value: few events have one
            return canonical.dumps(event.__pydantic_serializer__.to_python(event, exclude_none=True))
    return f"{{{b''.join(parts)[1:].decode()}}}"


@cache
def _labels(model: type[Event]) -> tuple[tuple[str, bytes], ...]:
    """Returns a model's field names in the order of the canonical text, each with the bytes that precede its value."""
    return tuple((name, b"," + canonical.text(name) + b":") for name in sorted(model.model_fields))


class Registry:
    """Knows the newest model of each event type, and the upcasts, which convert data of older versions.

    `newest` maps types to models. `models` maps (type, version) to models; older versions map to the newest model too.
    """

    def __init__(self, events: Iterable[type[Event]], upcasts: Mapping[tuple[str, int], Upcast]) -> None:
        """Raises ValueError when an event type occurs twice, or when an older version has no upcast."""
        self._upcasts = upcasts
        self.newest: dict[str, type[Event]] = {}
        self.models: dict[tuple[str, int], type[Event]] = {}
        self._wire_names: dict[str, tuple[str, int]] = {}
        self._decoders: dict[tuple[str, int], Callable[[str | bytes], Event]] = {}
        for model in events:
            self._add(model)

    def _add(self, model: type[Event]) -> None:
        if model.type in self.newest:
            raise ValueError(f"{model.type} is in the catalogue twice")
        self.newest[model.type] = model
        base = wire_base(model.owner, model.type)
        self._decoders[model.type, model.version] = _json_decoder(model)
        for version in range(1, model.version + 1):
            if version < model.version and (model.type, version) not in self._upcasts:
                raise ValueError(f"{model.type} has no upcast from version {version}")
            self.models[model.type, version] = model
            self._wire_names[f"{base}.v{version}"] = model.type, version

    def model(self, type: str) -> type[Event]:
        """Returns the newest model of a type. Raises UnknownType."""
        try:
            return self.newest[type]
        except KeyError:
            raise UnknownType(f"no event type {type[:128]!r}") from None

    def wire_name(self, type: str, version: int) -> str:
        """Returns the wire name (`ce_type`) of a type and version. Raises UnknownType or UnknownVersion."""
        if (type, version) not in self.models:
            raise self._unknown(type, version)
        return f"{wire_base(self.newest[type].owner, type)}.v{version}"

    def parse_wire_name(self, name: str) -> tuple[str, int]:
        """Returns the type and version of a wire name (`ce_type`). Raises UnknownType or UnknownVersion."""
        known = self._wire_names.get(name)
        if known is not None:
            return known
        found = _WIRE_NAME.fullmatch(name)
        if found is None or f"{found[1]}.v1" not in self._wire_names:
            raise UnknownType(f"no event type {name[:128]!r}")
        raise self._unknown(self._wire_names[f"{found[1]}.v1"][0], int(found[2]))

    def decode(self, type: str, version: int, text: str | bytes) -> Event:
        """Returns the event in a JSON text, converted to the newest version.

        Raises UnknownType, UnknownVersion or InvalidData.
        """
        decoder = self._decoders.get((type, version))
        if decoder is None:
            return self.validate(type, version, canonical.loads(text))
        try:
            return decoder(text)
        except ValidationError as error:
            if _details(error)[0]["type"] != "json_invalid":
                raise invalid(error) from None
        # Python's parser accepts lone surrogates and deep nesting; pydantic's parser does not.
        return self.validate(type, version, canonical.loads(text))

    def validate(self, type: str, version: int, data: Any) -> Event:
        """Returns the event in parsed JSON data: converts the data to the newest version, then validates it.

        Raises UnknownType, UnknownVersion or InvalidData.
        """
        model = self.models.get((type, version))
        if model is None:
            raise self._unknown(type, version)
        if not isinstance(data, dict):
            raise InvalidData("the data must be a JSON object")
        for step in range(version, model.version):
            try:
                data = self._upcasts[type, step](data)
            except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
                # An upcast expects valid data of its version, and this data is not validated yet.
                raise InvalidData(f"not version {step} of {type}: {error.__class__.__name__}") from None
        try:
            return model.model_validate(data, extra=_extra(model))
        except ValidationError as error:
            raise invalid(error) from None

    def _unknown(self, type: str, version: int) -> UnknownType | UnknownVersion:
        if type not in self.newest:
            return UnknownType(f"no event type {type[:128]!r}")
        return UnknownVersion(
            f"{type} has no version {version}; the newest known is {self.newest[type].version}"
        )


def _extra(model: type[Event]) -> Literal["ignore"] | None:
    """Returns "ignore" if decoding ignores unknown fields at any depth. That is so for facts, so that older releases
    can read newer facts.

    Returns None for requests, and for facts with a BlobRef field: a BlobRef is recognised by having no other fields.
    """
    return None if model.owner is Owner.OUTSIDE or blob_fields(model) else "ignore"


def _json_decoder(model: type[Event]) -> Callable[[str | bytes], Event]:
    validate_json = model.__pydantic_validator__.validate_json
    extra = _extra(model)
    return validate_json if extra is None else partial(validate_json, extra=extra)


def invalid(error: ValidationError) -> InvalidData:
    """Converts a validation error of pydantic to InvalidData. Names the first wrong field, but never its value."""
    first, *others = _details(error)
    more = f" (and {len(others)} more)" if others else ""
    return InvalidData(first["msg"] + more, field=".".join(str(part)[:128] for part in first["loc"]))


def _details(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False, include_input=False)


def subject_of(event: Event) -> str | None:
    """Returns the build or account id in the event's data. Returns None when the data does not contain one, as in many
    facts.
    """
    # Not getattr: on a pydantic model it takes longer for a missing name than decoding the whole event.
    return event.__dict__.get("build_id" if event.stream == "build" else "account_id")


#: All event types of this release.
CATALOGUE: Final = Registry(get_args(AnyEvent), UPCASTS)

decode = CATALOGUE.decode
validate = CATALOGUE.validate
model = CATALOGUE.model
wire_name = CATALOGUE.wire_name
parse_wire_name = CATALOGUE.parse_wire_name
