"""Lets programs such as the command line check a request before they send it, by the rules of the orchestrator."""

from datetime import datetime

from nightshift.contracts.events.requests import BuildRequested
from nightshift.orchestrator.domain.admission import admit, same_request
from nightshift.orchestrator.domain.policy import Policy

__all__ = ["check_request", "same_request"]


def check_request(request: BuildRequested, now: datetime) -> None:
    """Raise BadMessage, which names the field, for a request that every orchestrator of this version refuses.

    A request that names no model is not refused for its model, because the default model is a setting of the
    orchestrator.
    """
    admit(request, now, Policy())
