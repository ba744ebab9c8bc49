"""How an account is told to a person."""

from datetime import UTC, datetime, timedelta

from nightshift.budget.domain.calendar import Period, day_at
from nightshift.budget.domain.ledger import open_account, reserve
from nightshift.cli.commands.account import told

_MONDAY = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)


def test_the_new_day_is_shown_after_a_night_without_events():
    period = Period("UTC", datetime(2026, 11, 23, tzinfo=UTC), 30)
    account = open_account("a1", period, 30_000_000, day_at(period, _MONDAY))
    account, reserved = reserve(account, 1_000_000, 1)
    assert told(account, _MONDAY)["left_today_microusd"] == 0
    tuesday = told(account, _MONDAY + timedelta(hours=10))
    assert (tuesday["day"], tuesday["reserved_microusd"]) == ("2026-11-24", 0)
    assert tuesday["left_today_microusd"] == (30_000_000 - reserved) // 29
    assert tuesday["refresh_at"] == datetime(2026, 11, 25, tzinfo=UTC)
