"""The settings of the budget service, in addition to those of every service."""

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field

from nightshift.budget.domain.calendar import check_time_zone
from nightshift.budget.domain.policy import BudgetPolicy
from nightshift.eventlog.errors import BadMessage
from nightshift.servicekit.settings import SettingsWithoutStore


def _time_zone(name: str) -> str:
    try:
        check_time_zone(name)
    except BadMessage as error:
        raise ValueError(f"{name!r} is no IANA time zone, {error.hint}") from None
    return name


class BudgetSettings(SettingsWithoutStore):
    """Settings of the budget service. Money is in microdollars, times are in seconds."""

    budget_default_period_microusd: int = Field(30_000_000, ge=0)  # for accounts that no request opened
    # Days of the budget period of such an account.
    budget_default_period_days: int = Field(30, ge=1, le=366)
    # The time zone in which the day of such an account ends.
    budget_default_time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"
    budget_grant_lasts_s: float = Field(300.0, gt=0)  # unused money of a grant is released after this time
    budget_day_seconds: float | None = Field(None, gt=0)  # None: calendar days, to midnight of the account
    # Sleepers that are due at the same midnight wake within this time.
    budget_wake_jitter_s: float = Field(30.0, ge=0)

    def policy(self) -> BudgetPolicy:
        """Return the settings on which decisions about money depend."""
        return BudgetPolicy(
            default_period_budget=self.budget_default_period_microusd,
            default_period_days=self.budget_default_period_days,
            default_time_zone=self.budget_default_time_zone,
            grant_lasts=timedelta(seconds=self.budget_grant_lasts_s),
            day_seconds=self.budget_day_seconds,
        )
