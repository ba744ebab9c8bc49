"""What the settings decide about money."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """The defaults of an account that nobody opened, how long a grant lasts, and how long a day is.

    Money in microdollars. `day_seconds` none: real days.
    """

    default_period_budget: int
    default_period_days: int
    default_time_zone: str
    grant_lasts: timedelta
    day_seconds: float | None
