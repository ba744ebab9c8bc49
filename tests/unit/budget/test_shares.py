"""Who gets an account's money when it is short, and what is expected of its builds."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from nightshift.budget.domain.calendar import Period, day_at
from nightshift.budget.domain.forecast import forecast
from nightshift.budget.domain.ledger import Account, most_of_a_day, open_account, reserve
from nightshift.budget.domain.shares import BuildShare, goes_first, waiting

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PERIOD = Period("UTC", datetime(2026, 11, 22, tzinfo=UTC), 30)
TODAY = day_at(PERIOD, NOW)


def share(build_id: str, spent_today: int = 0, **more) -> BuildShare:
    return BuildShare(build_id, "a", False, TODAY.label, spent_today, more.pop("spent", spent_today), **more)


def waits(build_id: str, spent_today: int = 0, needs: int = 40, **more) -> BuildShare:
    return replace(share(build_id, spent_today, needs=needs, waits_since=NOW), **more)


@pytest.mark.parametrize(
    ("mine", "other", "left", "first"),
    [
        (share("m", 35), waits("o"), 65, "o"),  # it has had its share of 60/2, the other has not
        (share("m", 25), waits("o"), 65, None),  # it has not
        (share("m", 35), waits("o"), 80, None),  # the money is enough for both
        (share("m", 35), waits("o", needs=70), 65, None),  # the other could not be paid
        (share("m", 35), waits("o", 31), 65, None),  # the other has had its share, too
        (share("m", 5), waits("o", 50, priority=True), 45, "o"),
        (replace(share("m", 50), priority=True), waits("o"), 45, None),
        (share("m", 0, spent=9), waits("o", spent=3), 65, "o"),  # the day begins: who had less before
        (share("m", 0, spent=3), waits("o", spent=9), 65, None),
        (share("m", 35), share("o"), 65, None),  # the other does not want any
    ],
)
def test_a_build_yields_only_to_one_that_was_served_less(mine, other, left, first):
    found = goes_first(mine, [other], left=left, minimum=40, limit=100)
    assert (found and found.build_id) == first


def test_the_build_that_was_served_least_comes_first():
    queue = waiting([waits("b", 9), waits("a", 2), share("x"), waits("p", 50, priority=True)])
    assert [one.build_id for one in queue] == ["p", "a", "b"]


def account(limit: int = 100) -> Account:
    return open_account("a", PERIOD, limit * 30, TODAY)


def test_the_most_of_a_day_is_that_of_an_idle_account():
    held, _ = reserve(account(), 90, 90)
    assert most_of_a_day(held, TODAY) == most_of_a_day(account(), TODAY) == 3_000 // 29
    spent = replace(account(), posted=90, spent_in_period=90)
    assert most_of_a_day(spent, TODAY) == 2_910 // 29


def test_builds_are_expected_to_cost_what_builds_usually_do():
    known = replace(account(), posted=40, spent_in_period=40)
    found = forecast(known, [share("b1", 40), waits("b2", 0)], [60, 90, 80], NOW)
    assert (found.usual_microusd, found.samples, found.more_microusd) == (80, 3, 40 + 80)
    # The one that was served least is first: 60 of its 80 today, the rest of both tomorrow.
    assert [(one.build_id, one.expected_microusd) for one in found.builds] == [("b2", 80), ("b1", 40)]
    assert found.ready_on == (TODAY.refresh_at + timedelta(hours=1)).date().isoformat()
    assert found.until_midnight_microusd == 60
    assert found.worst_night_microusd == 60 + found.next_day_microusd


def test_without_earlier_builds_nothing_is_expected():
    found = forecast(account(), [share("b1", 5)], [], NOW)
    assert (found.usual_microusd, found.more_microusd, found.ready_on) == (None, None, None)
    assert found.until_midnight_microusd == 100
