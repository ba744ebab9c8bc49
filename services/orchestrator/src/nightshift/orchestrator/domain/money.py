"""The build's side of its money: grants, what calls take of them, and the worst case a call must be covered for."""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from nightshift.contracts import prices
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, BudgetSettled
from nightshift.orchestrator.domain.state import Call, Grant, Money

#: A grant that ends sooner than this is not begun: the call it pays for would outlive it.
_MARGIN = timedelta(seconds=5)


def worst_case(model: str, prompt_tokens: int, max_output_tokens: int) -> int:
    """Microdollars that a call costs at most."""
    return prices.worst_case(model, prompt_tokens, max_output_tokens)


def covering(money: Money, amount: int, now: datetime) -> Grant | None:
    """The oldest grant of which this much is left."""
    for grant in money.grants:
        if grant.left_microusd >= amount and grant.expires_at > now + _MARGIN:
            return grant
    return None


def winding_down(money: Money) -> bool:
    """Whether nine tenths of the account's day are gone and the agent was not told today."""
    if money.day_limit is None or money.warned_day == money.day:
        return False
    return (money.day_left + left(money)) * 10 <= money.day_limit


def left(money: Money) -> int:
    """What is left of all grants."""
    return sum(max(grant.left_microusd, 0) for grant in money.grants)


def granted(money: Money, data: BudgetGranted) -> Money:
    grant = Grant(data.lease_id, data.amount_microusd, data.expires_at)
    return replace(
        money,
        grants=(*money.grants, grant),
        asked=None if money.asked == data.lease_id else money.asked,
        refused_until=None,
        day=data.day,
        day_limit=data.day_limit_microusd,
        day_left=data.left_today_microusd,
    )


def denied(money: Money, data: BudgetDenied) -> Money:
    if money.asked != data.lease_id:
        return money
    return replace(money, asked=None, refused_until=data.refresh_at, day_left=data.left_today_microusd)


def settled(money: Money, data: BudgetSettled) -> Money:
    return replace(money, grants=tuple(grant for grant in money.grants if grant.lease_id != data.lease_id))


def taken(money: Money, lease_id: UUID, reserve: int) -> Money:
    """A call has started: its worst case is no longer free."""
    return replace(money, grants=_change(money, lease_id, -reserve))


def spent(money: Money, call: Call | None, cost: int) -> Money:
    """A call has ended: what it did not cost is free again."""
    if call is None:
        return replace(money, spent=money.spent + cost)
    grants = _change(money, call.lease_id, call.reserve_microusd - cost)
    return replace(money, grants=grants, spent=money.spent + cost)


def warned(money: Money, reason: str) -> Money:
    return replace(money, warned_day=money.day) if reason == "budget" else money


def _change(money: Money, lease_id: UUID, amount: int) -> tuple[Grant, ...]:
    return tuple(
        replace(grant, left_microusd=grant.left_microusd + amount) if grant.lease_id == lease_id else grant
        for grant in money.grants
    )
