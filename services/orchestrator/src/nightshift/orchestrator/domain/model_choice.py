"""Chooses the model of each role in a build, and the parameters of requests that depend on the model."""

from typing import Any

from nightshift.contracts import models
from nightshift.contracts.events.build import BuildAccepted
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.models import Role
from nightshift.orchestrator.domain.policy import Policy


def models_of(request: BuildRequested, policy: Policy) -> dict[Role, str]:
    """Return the model of each role. A role gets the model that the request names for it.

    A role that the request does not name gets the model of the settings. When they name none, the request's tier
    decides. The request's field `models` has precedence over its field `model`, which names the builder's model.
    """
    chosen = dict(models.TIERS[request.tier].models)
    if not policy.model_by_tier:
        chosen = dict.fromkeys(chosen, policy.default_model)
    chosen |= policy.role_models
    if request.model is not None:
        chosen["builder"] = request.model
    return {**chosen, **(request.models or {})}


def effort_of(request: BuildRequested, model: str) -> str | None:
    """Return the effort that the request's tier sets for thinking, or None when the model does not know that effort."""
    return _effort(request.tier, model)


def _effort(tier: models.Tier, model: str) -> str | None:
    effort = models.TIERS[tier].effort
    return effort if effort in models.card_of(model).efforts else None


def model_of(accepted: BuildAccepted, role: Role) -> str:
    """Return the model of a role. In a build of an earlier version, every role has the builder's model."""
    return accepted.model if role == "builder" else (accepted.models or {}).get(role, accepted.model)


def output_limit(accepted: BuildAccepted, policy: Policy, role: Role = "builder") -> int:
    """Return the most tokens of one answer, with room for thinking when the model thinks."""
    limit = policy.max_output_tokens + (policy.thinking_tokens if _thinks(accepted, role) else 0)
    return min(limit, models.card_of(model_of(accepted, role)).max_output)


def thinking_parameters(accepted: BuildAccepted, role: Role = "builder") -> dict[str, Any]:
    """Return the parameters of a request for thinking and effort, which are the same during the whole build.

    A build of an earlier version has none, because its conversation began without them.
    """
    parameters: dict[str, Any] = {}
    if _thinks(accepted, role):
        parameters["thinking"] = {"type": "adaptive"}
    effort = accepted.effort
    if role != "builder":
        effort = _effort(accepted.tier, model_of(accepted, role))
    if effort is not None:
        parameters["output_config"] = {"effort": effort}
    return parameters


def _thinks(accepted: BuildAccepted, role: Role) -> bool:
    adaptive = models.card_of(model_of(accepted, role)).thinking in ("always", "adaptive", "either")
    return adaptive and accepted.models is not None
