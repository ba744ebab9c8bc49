"""Reads the parts of an account's policy from command line options, and shows a policy to a person."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from nightshift.cli.errors import WrongUsage
from nightshift.cli.text import dollars
from nightshift.contracts.approval_rules import mistake_in
from nightshift.contracts.errors import UnknownModel
from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.models import Role, card_of

_APPROVALS = {
    "mode": "approvals",
    "ask": "ask about",
    "hosts": "ask about hosts",
    "allow": "never ask about",
    "deadline_s": "denied after seconds",
}
ROLES: tuple[str, ...] = get_args(Role)


def with_models(before: Mapping[str, str], given: Iterable[str]) -> dict[str, str] | None:
    """Returns role → model after the changes in `given`: ROLE=MODEL sets a model, and ROLE= removes it.

    Returns None when no model is left. Raises WrongUsage for a change of another form or an unknown role.
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


def with_approvals(
    before: Mapping[str, Any] | None,
    *,
    mode: str | None,
    ask: Sequence[str],
    hosts: Sequence[str],
    allow: Sequence[str],
    deadline_s: int | None,
) -> Mapping[str, Any] | None:
    """Returns the approval policy that these options describe, or `before` when no option is given.

    Raises WrongUsage for options that are wrong or do not fit together.
    """
    if mode is None and deadline_s is None and not (ask or hosts or allow):
        return before
    fields = {
        "mode": mode or "rules",
        "ask": ask,
        "hosts": hosts,
        "allow": allow,
        "deadline_s": deadline_s,
    }
    try:
        policy = ApprovalPolicy.model_validate(fields)
    except ValidationError as error:
        raise WrongUsage(f"approvals: {error.errors()[0]['msg']}") from None
    if (mistake := mistake_in(policy, None)) is not None:
        raise WrongUsage(mistake[1])
    return policy.model_dump(mode="json", exclude_none=True)


def _check(model: str) -> None:
    try:
        card_of(model)
    except UnknownModel as error:
        raise WrongUsage(str(error)) from None


def shown(fields: Mapping[str, Any]) -> dict[str, object]:
    """Returns the fields of a policy in words for a person."""
    found: dict[str, object] = {
        f"model of the {role}": model for role, model in (fields.get("models") or {}).items()
    }
    if (limit := fields.get("build_cost_limit_microusd")) is not None:
        found["most that a build costs"] = dollars(limit)
    if (most := fields.get("max_active_builds")) is not None:
        found["active builds"] = most
    for name, value in (fields.get("approvals") or {}).items():
        if value:
            text = ", ".join(value) if isinstance(value, list | tuple) else value
            found[_APPROVALS[name]] = text
    if hosts := fields.get("egress_hosts"):
        found["may reach"] = ", ".join(hosts)
    return found
