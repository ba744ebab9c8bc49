"""Decides which requests are accepted. A field that this version does not support is refused, and never ignored."""

import json
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any

from nightshift.contracts import canonical, models, prices
from nightshift.contracts.approval_rules import mistake_in
from nightshift.contracts.errors import UnknownModel
from nightshift.contracts.events.account import AccountPolicyChanged
from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.events.build import BuildAccepted
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.models import Role
from nightshift.eventlog.errors import BadMessage
from nightshift.orchestrator.domain import attachments, customer_tools, setup
from nightshift.orchestrator.domain.account_policy import resolved
from nightshift.orchestrator.domain.model_choice import models_of
from nightshift.orchestrator.domain.policy import Policy

#: Control characters, except tab, line feed and carriage return.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
#: A lone surrogate, which UTF-8 cannot encode.
_SURROGATE = re.compile(r"[\ud800-\udfff]")
#: The most bytes of an idea that is a JSON object, in canonical form.
_IDEA_BYTES = 200_000


def admit(
    request: BuildRequested, now: datetime, policy: Policy, account: AccountPolicyChanged | None = None
) -> None:
    """Raise BadMessage, which names the field, when a request cannot be built under its account's policy."""
    for field in request.unsupported():
        raise BadMessage(f"`{field}` is not supported by this version", field=field)
    for field, text in _texts(request):
        _readable(field, text)
    _fork(request)
    customer_tools.check_tools(request.tools)
    if request.approvals is not None:
        _approvals(request.approvals, {tool.name for tool in request.tools})
    attachments.check(request.attachments)
    setup.check(request)
    if request.deadline is not None:
        _future("deadline", request.deadline, now)
    if request.model is not None and (request.models or {}).get("builder", request.model) != request.model:
        raise BadMessage("`model` and `models.builder` name two models", field="models.builder")
    for role, model in models_of(resolved(request, account), policy).items():
        _usable(role, model, request, account, now)


def _approvals(policy: ApprovalPolicy, customer_tools: Collection[str]) -> None:
    if (mistake := mistake_in(policy, customer_tools)) is not None:
        field, why = mistake
        raise BadMessage(f"`approvals.{field}`: {why}", field=f"approvals.{field}")


def same_request(accepted: BuildAccepted, request: BuildRequested) -> bool:
    """Return whether `request` repeats the request that was accepted.

    Fields that the request leaves to the account's policy are not compared. The cost limit is not compared either,
    because a person may have changed it meanwhile.
    """
    open_fields = {"model", "models", "approvals", "egress_hosts", "cost_limit_microusd"}
    fields = set(BuildRequested.model_fields) - open_fields
    same = all(getattr(accepted, field) == getattr(request, field) for field in fields)
    named = (request.models or {}).items()
    return (
        same
        and request.model in (None, accepted.model)
        and request.approvals in (None, accepted.approvals)
        and set(request.egress_hosts) <= set(accepted.egress_hosts)
        and named <= (accepted.models or {}).items()
    )


def _usable(
    role: Role,
    model: str,
    request: BuildRequested,
    account: AccountPolicyChanged | None,
    now: datetime,
) -> None:
    """Raise BadMessage for a model that has no price or has retired. The message says where the model was named."""
    try:
        models.check_usable(model, now.date())
        prices.price_of(model)
    except UnknownModel as error:
        if role in (request.models or {}):
            raise BadMessage(str(error), field=f"models.{role}") from None
        if role == "builder" and request.model is not None:
            raise BadMessage(str(error), field="model") from None
        by = "the account's policy" if account and role in (account.models or {}) else "the orchestrator"
        raise BadMessage(f"{by} chose the {role} for this request: {error}", field="models") from None


def _fork(request: BuildRequested) -> None:
    """Raise BadMessage when `base_build_id` or `at` is given without the other, or `message` without both.

    Also when a build would be a fork of itself. The error names the field.
    """
    if (request.base_build_id is None) != (request.at is None):
        missing = "at" if request.at is None else "base_build_id"
        raise BadMessage(f"a fork needs `base_build_id` and `at`; `{missing}` is missing", field=missing)
    if request.base_build_id is None and request.message is not None:
        raise BadMessage("`message` is for a fork; write it into `idea_brief`", field="message")
    if request.base_build_id == request.build_id:
        raise BadMessage("a build cannot be a fork of itself", field="base_build_id")


def _texts(request: BuildRequested) -> Iterator[tuple[str, str]]:
    yield from _strings("idea_brief", request.idea_brief)
    if request.message is not None:
        yield "message", request.message
    for number, pair in enumerate(request.understanding_qna):
        yield f"understanding_qna.{number}.question", pair.question
        yield f"understanding_qna.{number}.answer", pair.answer
    for number, attachment in enumerate(request.attachments):
        yield f"attachments.{number}.name", attachment.name
    for number, criterion in enumerate(request.criteria):
        yield f"criteria.{number}", criterion
    for number, tool in enumerate(request.tools):
        yield f"tools.{number}.description", tool.description
    for number, check in enumerate(request.checks):
        yield f"checks.{number}.name", check.name
        yield f"checks.{number}.command", check.command


def _strings(field: str, value: str | dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the pair of `field` and `value` when the value is a text, so that the caller checks the text.

    An object is checked here, and nothing is yielded. Raises BadMessage for an object that is empty, is too large, or
    contains a lone surrogate.
    """
    if isinstance(value, str):
        yield field, value
        return
    if not value:
        raise BadMessage(f"`{field}` is empty", field=field)
    size = len(canonical.dumps(value))
    if size > _IDEA_BYTES:
        raise BadMessage(f"`{field}` has {size} bytes as JSON, {_IDEA_BYTES} are allowed", field=field)
    if found := _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise BadMessage(
            f"`{field}` holds the character U+{ord(found[0]):04X}, which is not text", field=field
        )


def _future(field: str, time: datetime, now: datetime) -> None:
    if time.tzinfo is None:
        raise BadMessage(f"`{field}` has no time zone", field=field)
    try:
        time.astimezone(UTC)
    except OverflowError:
        raise BadMessage(f"`{field}` is beyond the calendar in UTC", field=field) from None
    if time <= now:
        raise BadMessage(f"`{field}` is over already", field=field)


def _readable(field: str, text: str) -> None:
    if not text.strip():
        raise BadMessage(f"`{field}` is empty", field=field)
    if found := _CONTROL.search(text) or _SURROGATE.search(text):
        raise BadMessage(
            f"`{field}` holds the character U+{ord(found[0]):04X} at {found.start()}, which is not text",
            field=field,
        )
