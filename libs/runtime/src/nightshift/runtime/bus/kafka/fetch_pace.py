"""How long a fetch may wait at a broker that does not wake it when data arrives (the embedded one).

There the wait is the latency of a hop, and the number of fetches the cost of doing nothing. So it follows the traffic:
short while messages flow, longer the longer none came. All consumers of a process share one pace, since a message for
one is soon a message for another. A broker that wakes its fetches (Apache Kafka) keeps the client's default.
"""

import time
from collections.abc import Callable

#: Seconds since the last message → milliseconds a fetch waits.
STEPS: tuple[tuple[float, int], ...] = ((2.0, 3), (30.0, 50), (float("inf"), 500))


class FetchPace:
    """The pace of all consumers of one process. `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._setters: list[Callable[[int], None]] = []
        self.wait_ms = STEPS[0][1]

    def add(self, setter: Callable[[int], None]) -> None:
        """Something that sets the wait of one consumer, called now and at each change."""
        setter(self.wait_ms)
        self._setters.append(setter)

    def flowed(self) -> None:
        """Messages came just now."""
        self._last = self._clock()
        self._set(STEPS[0][1])

    def tick(self) -> None:
        """Slow down when nothing came for a while. Called about once a second."""
        quiet = self._clock() - self._last
        self._set(next(wait for until, wait in STEPS if quiet < until))

    def _set(self, wait_ms: int) -> None:
        if wait_ms != self.wait_ms:
            self.wait_ms = wait_ms
            for setter in self._setters:
                setter(wait_ms)
