"""Fills the open fields of a request from the policy of its account."""

from nightshift.contracts.events.account import AccountPolicyChanged
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.models import Role


def resolved(request: BuildRequested, account: AccountPolicyChanged | None) -> BuildRequested:
    """Return the request with the fields that it leaves open filled from the account's policy.

    The policy's hosts are added to the hosts of the request.
    """
    models: dict[Role, str] = dict(account.models or {}) if account is not None else {}
    models |= {"builder": request.model} if request.model is not None else {}
    models |= request.models or {}
    limit = request.cost_limit_microusd
    if limit is None and account is not None:
        limit = account.build_cost_limit_microusd
    approvals = request.approvals if account is None else request.approvals or account.approvals
    hosts = () if account is None else account.egress_hosts or ()
    update = {
        "cost_limit_microusd": limit,
        "models": models or None,
        "approvals": approvals,
        "egress_hosts": tuple(dict.fromkeys((*request.egress_hosts, *hosts))),
    }
    return request.model_copy(update=update)


def max_active_builds(account: AccountPolicyChanged | None) -> int | None:
    """Return how many builds of the account may be active at once, or None when its policy does not say."""
    return None if account is None else account.max_active_builds
