"""Folds a build's grants and costs, and finds the grant that covers the worst case of a call."""

from datetime import datetime, timedelta
from uuid import UUID

from nightshift.contracts import prices
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, BudgetSettled
from nightshift.contracts.events.build import BudgetRequested
from nightshift.orchestrator.domain.replace import replace
from nightshift.orchestrator.domain.state import Funds, Grant, OpenCall

#: A grant that expires sooner than this is not used, because the call could last longer.
_MARGIN = timedelta(seconds=5)


def worst_case(model: str, prompt_tokens: int, max_output_tokens: int) -> int:
    """Return the most microdollars that a call can cost."""
    return prices.worst_case(model, prompt_tokens, max_output_tokens)


def covering(funds: Funds, amount: int, now: datetime) -> Grant | None:
    """Return the oldest grant that has at least this amount left and does not expire soon, or None when none has."""
    for grant in funds.grants:
        if grant.left_microusd >= amount and grant.expires_at > now + _MARGIN:
            return grant
    return None


def grant_amount(funds: Funds, minimum: int, *, turns: int, grant_turns: int, cost_limit: int | None) -> int:
    """Return the amount to request: the worst case of the next call, and the average cost of a turn for each further
    turn.

    A grant covers at most `grant_turns` turns, because the account's other builds cannot use the money that it
    reserves. A build with a `cost_limit` requests no more than it may still spend, but always the `minimum`.
    """
    amount = minimum + (grant_turns - 1) * (funds.spent // turns if turns else 0)
    return amount if cost_limit is None else max(min(amount, cost_limit - funds.spent), minimum)


def winding_down(funds: Funds) -> bool:
    """Return whether the agent must be warned that the account's money of the day runs out.

    That is so when nine tenths of the day's money are spent and the agent was not warned on this day.
    """
    if funds.day_limit is None or funds.warned_day == funds.day:
        return False
    return (funds.day_left + left(funds)) * 10 <= funds.day_limit


def left(funds: Funds) -> int:
    """Return how many microdollars are left in all grants."""
    return sum(max(grant.left_microusd, 0) for grant in funds.grants)


def requested(funds: Funds, data: BudgetRequested) -> Funds:
    return replace(funds, asked=data.lease_id, needs=data.minimum_microusd, refused_until=None, day_most=None)


def granted(funds: Funds, data: BudgetGranted) -> Funds:
    grant = Grant(data.lease_id, data.amount_microusd, data.expires_at)
    return replace(
        funds,
        grants=(*funds.grants, grant),
        asked=None if funds.asked == data.lease_id else funds.asked,
        refused_until=None,
        day=data.day,
        day_limit=data.day_limit_microusd,
        day_left=data.left_today_microusd,
    )


def denied(funds: Funds, data: BudgetDenied) -> Funds:
    if funds.asked != data.lease_id:
        return funds
    return replace(
        funds,
        asked=None,
        refused_until=data.refresh_at,
        day_left=data.left_today_microusd,
        day_most=data.day_limit_microusd,
    )


def settled(funds: Funds, data: BudgetSettled) -> Funds:
    return replace(funds, grants=tuple(grant for grant in funds.grants if grant.lease_id != data.lease_id))


def taken(funds: Funds, lease_id: UUID, reserve: int) -> Funds:
    """Subtract the worst case of a starting call from what is left of the grant `lease_id`."""
    return replace(funds, grants=_change(funds, lease_id, -reserve))


def spent(funds: Funds, call: OpenCall | None, cost: int) -> Funds:
    """Add the cost of a call that ends. Give back to its grant what the call did not cost of its reserved worst case.

    Without an open call, only the cost is added.
    """
    if call is None:
        return replace(funds, spent=funds.spent + cost)
    grants = _change(funds, call.lease_id, call.reserve_microusd - cost)
    return replace(funds, grants=grants, spent=funds.spent + cost)


def warned(funds: Funds, reason: str) -> Funds:
    return replace(funds, warned_day=funds.day) if reason == "budget" else funds


def _change(funds: Funds, lease_id: UUID, amount: int) -> tuple[Grant, ...]:
    return tuple(
        replace(grant, left_microusd=grant.left_microusd + amount) if grant.lease_id == lease_id else grant
        for grant in funds.grants
    )
