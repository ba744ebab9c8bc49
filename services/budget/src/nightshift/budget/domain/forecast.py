"""Estimates when an account's builds are done and what they still cost, from what earlier builds cost. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median

from nightshift.budget.domain.calendar import day_at
from nightshift.budget.domain.ledger import Account, refresh
from nightshift.budget.domain.shares import BuildShare, order

#: A build that has cost more than builds usually do is expected to cost this part more.
_OVER = 4
#: Days after which a forecast gives up.
_FURTHEST = 366


@dataclass(frozen=True, slots=True)
class BuildForecast:
    """What is expected of one build. `ready_on` is a day of the account, None when no day of the next year pays it."""

    build_id: str
    spent_microusd: int
    expected_microusd: int  # more
    ready_on: str | None
    waits: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of an account's builds, and the most that its coming night can cost.

    `usual_microusd` is the median cost of the `samples` builds that got ready before. It is None when there are none;
    then nothing is expected.
    """

    builds: tuple[BuildForecast, ...]
    usual_microusd: int | None
    samples: int
    more_microusd: int | None
    ready_on: str | None
    until_midnight_microusd: int
    next_day_microusd: int

    @property
    def worst_night_microusd(self) -> int:
        """The most that a night can cost with the account's midnight in it: the rest of today and the next day."""
        return self.until_midnight_microusd + self.next_day_microusd


def forecast(account: Account, shares: Sequence[BuildShare], ready: Sequence[int], now: datetime) -> Forecast:
    """Return the forecast at `now`. `ready` holds the costs of builds that got ready, the account as of today.

    Each build is expected to cost what such builds usually do. The day's money goes to the builds in their fair order.
    """
    day = day_at(account.period, now)
    until_midnight = max(account.limit - account.posted, 0)
    tomorrow = refresh(account, day_at(account.period, day.refresh_at))
    usual = round(median(ready)) if ready else None
    queue = sorted(shares, key=lambda one: (*order(one), one.build_id))
    missing = {} if usual is None else {one.build_id: _missing(one, usual) for one in queue}
    days = _days(account, now, until_midnight, missing)
    builds = tuple(
        BuildForecast(
            one.build_id,
            one.spent,
            missing.get(one.build_id, 0),
            days.get(one.build_id),
            one.waits_since is not None,
        )
        for one in queue
    )
    all_ready = bool(builds) and usual is not None and all(one.ready_on for one in builds)
    return Forecast(
        builds=builds,
        usual_microusd=usual,
        samples=len(ready),
        more_microusd=None if usual is None else sum(missing.values()),
        ready_on=days[queue[-1].build_id] if all_ready else None,
        until_midnight_microusd=until_midnight,
        # What is reserved over midnight is a part of the day on which it was reserved.
        next_day_microusd=max(tomorrow.limit, 0),
    )


def _missing(share: BuildShare, usual: int) -> int:
    return usual - share.spent if share.spent < usual else max(share.spent // _OVER, 1)


def _days(account: Account, now: datetime, left: int, missing: dict[str, int]) -> dict[str, str]:
    """Return the day on which the money of each build is spent: one after the other, with the limit of each day."""
    found: dict[str, str] = {}
    day, spent_today = day_at(account.period, now), account.posted
    for build_id, amount in missing.items():
        rest = amount
        for _ in range(_FURTHEST):
            paid = min(rest, left)
            rest, left, spent_today = rest - paid, left - paid, spent_today + paid
            if not rest:
                found[build_id] = day.label
                break
            account = _spent(account, spent_today)
            day = day_at(account.period, day.refresh_at)
            account = refresh(account, day)
            left, spent_today = account.limit, 0
    return found


def _spent(account: Account, posted: int) -> Account:
    """Return the account at the end of a day on which so much was spent and nothing stays reserved."""
    more = posted - account.posted
    return replace(
        account, posted=posted, pending=0, reserved_before=0, spent_in_period=account.spent_in_period + more
    )
