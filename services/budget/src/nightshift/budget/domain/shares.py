"""Shares an account's day among its builds: first the tier `priority`, then the build that has spent least.

Builds run side by side while the money is enough for the next call of each. When it is not, a build that has had its
share of the day lets a waiting build go first that has not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from nightshift.budget.domain.sleepers import Need


@dataclass(frozen=True, slots=True)
class BuildShare:
    """What a build has spent of its account's money, in microdollars, and what it needs next.

    `spent_today` was spent on `day`, and `spent` on all days. `needs` is the highest cost of its next call, from its
    last request. `waits_since` is when its request was denied, or None when it does not wait for money.
    """

    build_id: str
    account_id: str
    priority: bool
    day: str
    spent_today: int = 0
    spent: int = 0
    needs: int = 0
    waits_since: datetime | None = None


def on_day(share: BuildShare, day: str) -> BuildShare:
    """Return the share for `day`. When the share was of another day, nothing is spent yet on `day`."""
    return share if share.day == day else replace(share, day=day, spent_today=0)


def order(share: BuildShare) -> tuple[bool, int, int]:
    """Return the key by which the builds of an account are sorted. The build with the smallest key gets money first."""
    return not share.priority, share.spent_today, share.spent


def goes_first(
    mine: BuildShare, others: Sequence[BuildShare], *, left: int, minimum: int, limit: int
) -> BuildShare | None:
    """Return the waiting build that must get money before `mine`, or None when `mine` may have the money.

    `left` is the part of the day's `limit` that is left. The next call of `mine` costs at most `minimum`. All shares
    must be of today. The last reservation of a day is never fully spent, so `minimum` is no part of a fair share.
    """
    fair = max(limit - minimum, 0) // (len(others) + 1)
    for other in waiting(others):
        payable = other.needs <= left
        both = other.needs + minimum <= left
        if payable and not both and _precedes(other, mine, fair):
            return other
    return None


def waiting(shares: Iterable[BuildShare]) -> Sequence[BuildShare]:
    """Return the shares of the builds that wait for money. The build that should get money first comes first."""
    return sorted((one for one in shares if one.waits_since is not None), key=order)


def needs_of(shares: Iterable[BuildShare]) -> Sequence[Need]:
    """Return what each build that waits for money needs for its next call. The build that should get money first comes
    first.
    """
    return [Need(one.needs, one.needs) for one in waiting(shares)]


def _precedes(other: BuildShare, mine: BuildShare, fair: int) -> bool:
    if other.priority != mine.priority:
        return other.priority
    # The first request of the day: the build that spent less on earlier days goes first.
    if mine.spent_today == 0:
        return other.spent_today == 0 and other.spent < mine.spent
    return other.spent_today < fair <= mine.spent_today
