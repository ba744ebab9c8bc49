"""A statement is of today, also when the stored account is of an earlier day."""

from datetime import UTC, datetime, timedelta

from nightshift.budget.adapters.statements import statement_of
from nightshift.budget.domain.calendar import Period, day_at
from nightshift.budget.domain.ledger import open_account, reserve

_MONDAY = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)


def test_a_statement_shows_the_new_day_after_a_night_without_events():
    period = Period("UTC", datetime(2026, 11, 23, tzinfo=UTC), 30)
    account = open_account("a1", period, 30_000_000, day_at(period, _MONDAY))
    account, reserved = reserve(account, 1_000_000, 1)
    assert statement_of(account, _MONDAY).left_today_microusd == 0
    tuesday = statement_of(account, _MONDAY + timedelta(hours=10))
    assert (tuesday.day, tuesday.reserved_microusd) == ("2026-11-24", 0)
    assert tuesday.left_today_microusd == (30_000_000 - reserved) // 29
    assert tuesday.refresh_at == datetime(2026, 11, 25, tzinfo=UTC)
