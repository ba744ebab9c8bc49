"""The settings that decide about money."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """The defaults of new accounts, in microdollars, and how long a grant and a day last (None: real days)."""

    default_period_budget: int
    default_period_days: int
    default_time_zone: str
    grant_lasts: timedelta
    day_seconds: float | None
