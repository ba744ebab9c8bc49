"""Finds the fields of an event that can be encrypted (sealed) or stored by reference.

The types of these fields tell: they are annotated with SEALED, or they include the type BlobRef.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nightshift.contracts.model import BlobRef, Event, Sealed


@cache
def sealed_fields(model: type[Event]) -> frozenset[str]:
    """Returns the names of the top-level fields that contain, at any depth, a value whose type is annotated with
    SEALED.
    """
    return frozenset(name for name, field in model.model_fields.items() if _is_sealed(field))


@cache
def blob_fields(model: type[Event]) -> frozenset[str]:
    """Returns the names of the top-level fields whose type allows a BlobRef in place of the value."""
    return frozenset(
        name for name, field in model.model_fields.items() if BlobRef in _parts(field.annotation)
    )


def _is_sealed(field: FieldInfo) -> bool:
    if any(isinstance(mark, Sealed) for mark in field.metadata):
        return True
    for part in _parts(field.annotation):
        if isinstance(part, Sealed):
            return True
        is_model = isinstance(part, type) and issubclass(part, BaseModel)
        if is_model and any(_is_sealed(inner) for inner in part.model_fields.values()):
            return True
    return False


def _parts(annotation: Any) -> Iterator[Any]:
    """Yields the annotation and all types in it: members of unions, items of containers, metadata of Annotated."""
    yield annotation
    for part in (*get_args(annotation), *getattr(annotation, "__metadata__", ())):
        yield from _parts(part)
