"""What the policy of an account adds to a request that leaves it open."""

from nightshift.contracts.events.account import AccountPolicyChanged
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.models import Role


def resolved(request: BuildRequested, account: AccountPolicyChanged | None) -> BuildRequested:
    """Return the request with what the account's policy sets and the request does not."""
    models: dict[Role, str] = dict(account.models or {}) if account is not None else {}
    models |= {"builder": request.model} if request.model is not None else {}
    models |= request.models or {}
    return request.model_copy(update={"models": models or None})
