"""Reads the parts of an account's policy from the command line, and shows them to a person."""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from nightshift.cli.errors import WrongUsage
from nightshift.contracts.errors import UnknownModel
from nightshift.contracts.models import Role, card_of

ROLES: tuple[str, ...] = get_args(Role)


def with_models(before: Mapping[str, str], given: Iterable[str]) -> dict[str, str] | None:
    """Returns the models by role after these changes, each ROLE=MODEL, or ROLE= to remove one. None: there are none.

    Raises WrongUsage.
    """
    models = dict(before)
    for text in given:
        role, equals, model = text.partition("=")
        if role not in ROLES or not equals:
            raise WrongUsage(f"{text!r} is not ROLE=MODEL", hint=f"the roles are {', '.join(ROLES)}")
        if model:
            _check(model)
            models[role] = model
        else:
            models.pop(role, None)
    return models or None


def _check(model: str) -> None:
    try:
        card_of(model)
    except UnknownModel as error:
        raise WrongUsage(str(error)) from None


def shown(fields: Mapping[str, Any]) -> dict[str, object]:
    """Returns the fields of a policy for a person."""
    return {f"model of the {role}": model for role, model in (fields.get("models") or {}).items()}
