"""Checks of requests for programs that send them, such as the command line."""

from datetime import datetime

from nightshift.contracts.events.requests import BuildRequested
from nightshift.orchestrator.domain import admission
from nightshift.orchestrator.domain.admission import same_request
from nightshift.orchestrator.domain.policy import Policy

__all__ = ["check_request", "same_request"]


def check_request(request: BuildRequested, now: datetime) -> None:
    """Raises BadMessage, naming the field, for a request that the orchestrator would refuse."""
    admission.admit(request, now, Policy())
