"""Reads from the provider's headers how long to wait: `retry-after`, and the resets of rate limits that are used up."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_NUMBER = re.compile(r"\s*[+-]?[0-9]+(\.[0-9]*)?\s*")
_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return seconds, read from milliseconds, seconds or a date. Returns None for anything else and for infinity."""
    try:
        if given := headers.get("retry-after-ms"):
            seconds = float(given) / 1000
        elif (given := headers.get("retry-after")) is None:
            return None
        elif _NUMBER.fullmatch(given):
            seconds = float(given)
        else:
            seconds = (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def exhausted_until(headers: Mapping[str, str]) -> datetime | None:
    """Return when the last of the rate limits of which nothing remains is full again. Returns None when some remains.

    Source: the headers `anthropic-ratelimit-<limit>-remaining` and `-reset` (an RFC 3339 time) of the Messages API.
    """
    resets: list[datetime] = []
    for limit in _LIMITS:
        if headers.get(f"anthropic-ratelimit-{limit}-remaining") != "0":
            continue
        try:
            reset = datetime.fromisoformat(headers.get(f"anthropic-ratelimit-{limit}-reset", ""))
        except ValueError:
            continue
        if reset.tzinfo is not None:
            resets.append(reset)
    return max(resets, default=None)
