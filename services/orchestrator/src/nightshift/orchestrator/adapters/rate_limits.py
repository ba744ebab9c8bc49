"""Reads from the provider's headers how long to wait: `retry-after`, and the reset times of exhausted rate limits."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_NUMBER = re.compile(r"\s*[+-]?[0-9]+(\.[0-9]*)?\s*")
_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait that the header `retry-after` states as milliseconds, as seconds or as a date.

    Returns None when the header is missing, unreadable or infinite.
    """
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
    """Return when the last of the exhausted rate limits is full again, or None when no limit is exhausted.

    The Messages API states this in the headers `anthropic-ratelimit-<limit>-remaining` and `-reset` (an RFC 3339 time).
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
