"""How an account's statement is shown to a person."""

from dataclasses import replace
from datetime import UTC, datetime

from nightshift.budget.adapters.statements import AccountStatement
from nightshift.cli.commands.account import shown

STATEMENT = AccountStatement(
    account_id="ada",
    time_zone="UTC",
    period_days=30,
    day="2026-11-24",
    refresh_at=datetime(2026, 11, 25, tzinfo=UTC),
    period_budget_microusd=30_000_000,
    spent_in_period_microusd=2_500_000,
    estimated_microusd=0,
    limit_microusd=1_000_000,
    posted_microusd=250_000,
    reserved_microusd=0,
    left_today_microusd=750_000,
)


def test_amounts_are_shown_in_dollars():
    assert shown(STATEMENT) == {
        "account": "ada",
        "period": "30 days with $30.0000",
        "spent in period": "$2.5000",
        "today": "2026-11-24 (UTC), until 2026-11-25T00:00:00+00:00",
        "limit today": "$1.0000",
        "spent today": "$0.2500",
        "reserved": "$0.0000",
        "left today": "$0.7500",
    }


def test_what_is_estimated_is_marked():
    told = shown(replace(STATEMENT, estimated_microusd=55_620))
    assert told["spent in period"] == "$2.5000, of which $0.0556 estimated"
