"""Days: each instant is in one day, days follow each other without a gap, also where clocks change."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightshift.budget.domain.calendar import Period, day_at, period_start

ZONES = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia", "America/New_York"]


def period(zone: str, now: datetime, seconds: float | None = None, days: int = 30) -> Period:
    return Period(zone, period_start(zone, now, seconds), days, seconds)


def test_a_day_ends_at_the_accounts_midnight() -> None:
    now = datetime(2026, 7, 1, 12, tzinfo=UTC)
    day = day_at(period("Europe/Berlin", now), now)
    assert day.label == "2026-07-01"
    assert day.refresh_at == datetime(2026, 7, 1, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "hours"),
    [(datetime(2026, 3, 29, 0, 30, tzinfo=UTC), 23), (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), 25)],
)
def test_the_days_of_the_clock_change_are_an_hour_shorter_or_longer(now: datetime, hours: int) -> None:
    day = day_at(period("Europe/Berlin", now), now)
    before = day_at(period("Europe/Berlin", now), now - timedelta(hours=3))
    assert day.refresh_at - before.refresh_at == timedelta(hours=hours)


def test_a_midnight_that_was_skipped_is_the_first_instant_after_it() -> None:
    # In Sao Paulo clocks went from 23:59:59 on 3 November 2018 to 01:00 on the 4th.
    now = datetime(2018, 11, 3, 15, tzinfo=UTC)
    assert day_at(period("America/Sao_Paulo", now), now).refresh_at == datetime(2018, 11, 4, 3, tzinfo=UTC)


def test_the_day_after_the_last_of_a_period_begins_the_next_period() -> None:
    now = datetime(2026, 2, 1, tzinfo=UTC)
    account_period = period("UTC", now, days=28)
    last, first = (day_at(account_period, now + timedelta(days=days)) for days in (27, 28))
    assert (last.days_left, last.period_number) == (1, 0)
    assert (first.days_left, first.period_number) == (28, 1)


def test_a_day_of_seconds_begins_when_the_account_is_opened() -> None:
    now = datetime(2026, 2, 1, 3, 4, 5, 678, tzinfo=UTC)
    account_period = period("UTC", now, seconds=20.0)
    assert day_at(account_period, now + timedelta(seconds=19.9)).refresh_at == now + timedelta(seconds=20)
    assert day_at(account_period, now + timedelta(seconds=20)).label == "day-2"


@given(
    st.sampled_from(ZONES),
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 12, 31), timezones=st.just(UTC)),
    st.sampled_from([None, 20.0, 0.5]),
)
def test_the_next_day_begins_when_this_one_ends(zone: str, now: datetime, seconds: float | None) -> None:
    account_period = period(zone, now - timedelta(days=3), seconds)
    day = day_at(account_period, now)
    assert day.refresh_at > now
    following = day_at(account_period, day.refresh_at)
    assert following.label != day.label
    assert day_at(account_period, day.refresh_at - timedelta(microseconds=1)).label == day.label
    assert 1 <= day.days_left <= 30
