"""What the orchestrator refuses, for programs that check a request before they send it. The command line imports it."""

from datetime import datetime

from nightshift.contracts.events.requests import BuildRequested
from nightshift.orchestrator.domain.admission import admit, same_request
from nightshift.orchestrator.domain.policy import Policy

__all__ = ["check_request", "same_request"]


def check_request(request: BuildRequested, now: datetime) -> None:
    """Raises BadMessage, naming the field, for a request that every orchestrator of this version refuses.

    A request without a model is not refused for its model: the default is a setting of the orchestrator.
    """
    admit(request, now, Policy())
