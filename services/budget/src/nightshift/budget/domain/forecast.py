"""Estimates when an account's builds will be ready and what they will still cost, from the cost of earlier builds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median

from nightshift.budget.domain.calendar import day_at
from nightshift.budget.domain.ledger import Account, refresh
from nightshift.budget.domain.shares import BuildShare, order

#: A build that already cost more than usual is expected to cost another quarter of what it has cost.
_OVER = 4
#: How many days a forecast looks ahead.
_FURTHEST = 366


@dataclass(frozen=True, slots=True)
class BuildForecast:
    """The forecast of one build.

    `ready_on` is the label of a day, or None when the account cannot pay the build within a year.
    """

    build_id: str
    spent_microusd: int
    expected_microusd: int  # in addition to `spent_microusd`
    ready_on: str | None
    waits: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast of an account's builds, and the most that the coming night can cost.

    `usual_microusd` is the median cost of `samples` earlier builds that became ready. Without such builds it is None,
    and nothing is forecast.
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
        """The most that can be spent in the coming night: what is left of today's limit, and the next day's limit."""
        return self.until_midnight_microusd + self.next_day_microusd


def forecast(account: Account, shares: Sequence[BuildShare], ready: Sequence[int], now: datetime) -> Forecast:
    """Return the forecast at `now`. `account` is as of today, and `ready` contains the costs of builds that became
    ready.

    Each build is expected to cost the median of `ready`. The money of each day goes to the builds one after the other,
    in the order in which the account shares its money.
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
        # Money that is reserved over midnight counts for the day on which it was reserved.
        next_day_microusd=max(tomorrow.limit, 0),
    )


def _missing(share: BuildShare, usual: int) -> int:
    return usual - share.spent if share.spent < usual else max(share.spent // _OVER, 1)


def _days(account: Account, now: datetime, left: int, missing: dict[str, int]) -> dict[str, str]:
    """Return build id → the day on which the build's expected cost is paid in full.

    The builds are paid one after the other. A build that cannot be paid within a year is left out.
    """
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
    """Return the account at the end of a day on which `posted` was spent and nothing remains reserved."""
    more = posted - account.posted
    return replace(
        account, posted=posted, pending=0, reserved_before=0, spent_in_period=account.spent_in_period + more
    )
