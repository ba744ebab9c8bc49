"""Computes when the days of an account begin and end: at midnight in its time zone, or after a number of seconds."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from zoneinfo import ZoneInfo

from nightshift.eventlog.errors import BadMessage


@dataclass(frozen=True, slots=True)
class Period:
    """A number of days that share one budget. The first day of the account begins at `start`."""

    time_zone: str
    start: datetime
    days: int
    day_seconds: float | None = None  # None: calendar days


@dataclass(frozen=True, slots=True)
class Day:
    """One day of an account. Its `label` is unique within the account.

    `days_left` is the number of days that are left in the period, including this day.
    """

    label: str
    refresh_at: datetime
    days_left: int
    period_number: int


def check_time_zone(name: str) -> None:
    """Raise BadMessage unless the name is an IANA time zone."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, not a valid name, or a folder of zones
        raise BadMessage(
            f"`time_zone` {name!r} is no IANA time zone",
            field="time_zone",
            hint="such as UTC or Europe/Berlin",
        ) from None


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """Return the first instant of a local date, as a UTC time.

    When the clocks skip midnight, the date begins at the end of the skipped time.
    """
    # fold=0 picks the earlier of two midnights. Converting to UTC moves a skipped midnight forward.
    local = datetime.combine(day, clock_time.min, tzinfo=zone)
    return local.astimezone(UTC)


def day_at(period: Period, now: datetime) -> Day:
    """Return the day of the account that contains `now`, a time with a time zone."""
    if period.day_seconds is None:
        zone = ZoneInfo(period.time_zone)
        today = now.astimezone(zone).date()
        elapsed = max((today - period.start.astimezone(zone).date()).days, 0)
        label, refresh_at = today.isoformat(), _midnight(today + timedelta(days=1), zone)
    else:
        elapsed = max(int((now - period.start).total_seconds() // period.day_seconds), 0)
        label = f"day-{elapsed + 1}"
        refresh_at = period.start + timedelta(seconds=(elapsed + 1) * period.day_seconds)
    return Day(label, refresh_at, period.days - elapsed % period.days, elapsed // period.days)


def period_start(time_zone: str, now: datetime, day_seconds: float | None) -> datetime:
    """Return the start of a period that opens now: the last midnight, or `now` when days are counted in seconds."""
    if day_seconds is not None:
        return now
    zone = ZoneInfo(time_zone)
    return _midnight(now.astimezone(zone).date(), zone)
