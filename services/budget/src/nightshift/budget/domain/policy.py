"""The settings on which decisions about money depend."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """The defaults of new accounts (in microdollars), how long a grant lasts, and the length of a day.

    `day_seconds` None means calendar days.
    """

    default_period_budget: int
    default_period_days: int
    default_time_zone: str
    grant_lasts: timedelta
    day_seconds: float | None
