"""Computes how long to wait before the next attempt: exponential, with an upper limit and random jitter."""

from collections.abc import Callable
from dataclasses import dataclass

#: Doubling stops here: 2.0 ** 1024 would overflow.
_MOST_DOUBLINGS = 60


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that start at `first_s` seconds and double with each failure in a row, up to `cap_s` seconds."""

    first_s: float
    cap_s: float

    def delay(self, failures: int, *, jitter: float) -> float:
        """Return the seconds to wait after `failures` failures in a row.

        `jitter` scales the doubled and capped delay: 0 gives half of it, 1 gives all of it.
        """
        doubled = self.first_s * 2.0 ** min(max(failures, 1) - 1, _MOST_DOUBLINGS)
        return min(self.cap_s, doubled) * (0.5 + 0.5 * jitter)


class RetryDelay:
    """The delays of one retry loop. `draw` returns the jitter, a number from 0 to 1, for example `random.random`."""

    def __init__(self, backoff: Backoff, draw: Callable[[], float]) -> None:
        self._backoff = backoff
        self._draw = draw
        self._failures = 0

    def after_failure(self) -> float:
        """Count one more failure and return the seconds to wait before the next attempt."""
        self._failures += 1
        return self._backoff.delay(self._failures, jitter=self._draw())

    def reset(self) -> None:
        """Start again at the first delay. Call this after a success."""
        self._failures = 0
