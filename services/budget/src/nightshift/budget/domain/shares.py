"""Shares an account's day among its builds: the tier `priority` first, then the build that was served least.

Builds run side by side while the money is enough for the next call of each. When it is not, a build that has had its
share of the day makes room for one that waits and has not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from nightshift.budget.domain.sleepers import Need


@dataclass(frozen=True, slots=True)
class BuildShare:
    """What a build has had of its account's money, in microdollars.

    `spent_today` was spent on `day`, `spent` on all days. `needs` is the worst case of its next call, as it last asked.
    `waits_since` is the time of a denial that no grant has followed.
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
    """Return the share as of `day`, on which nothing was spent yet when it is a new one."""
    return share if share.day == day else replace(share, day=day, spent_today=0)


def order(share: BuildShare) -> tuple[bool, int, int]:
    """Return what to sort builds by, so that the one to serve first comes first."""
    return not share.priority, share.spent_today, share.spent


def goes_first(
    mine: BuildShare, others: Sequence[BuildShare], *, left: int, minimum: int, limit: int
) -> BuildShare | None:
    """Return the waiting build that gets the money before `mine`. Returns None when `mine` may have it.

    The account has `left` of the day's `limit`, and the next call of `mine` costs at most `minimum`. All shares are of
    today. What the last call of a day must have reserved is never spent, so it is no part of a fair share.
    """
    fair = max(limit - minimum, 0) // (len(others) + 1)
    for other in waiting(others):
        payable = other.needs <= left
        both = other.needs + minimum <= left
        if payable and not both and _precedes(other, mine, fair):
            return other
    return None


def waiting(shares: Iterable[BuildShare]) -> Sequence[BuildShare]:
    """Return the builds that wait for money, the one to serve first at the front."""
    return sorted((one for one in shares if one.waits_since is not None), key=order)


def needs_of(shares: Iterable[BuildShare]) -> Sequence[Need]:
    """Return what the waiting builds need for one call each."""
    return [Need(one.needs, one.needs) for one in waiting(shares)]


def _precedes(other: BuildShare, mine: BuildShare, fair: int) -> bool:
    if other.priority != mine.priority:
        return other.priority
    if mine.spent_today == 0:  # the first request of the day: who had less on the days before comes first
        return other.spent_today == 0 and other.spent < mine.spent
    return other.spent_today < fair <= mine.spent_today
