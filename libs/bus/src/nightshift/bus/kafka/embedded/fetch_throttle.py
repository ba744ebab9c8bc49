"""Decides when a consumer fetches again from the embedded broker.

The embedded broker does not answer a waiting fetch when records arrive. So the client waits before each fetch instead.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from nightshift.bus.kafka.embedded.fetch_timeout import FetchTimeout

#: How long the broker may take for a fetch, in milliseconds. Below this, a busy broker answers before it has looked.
FETCH_WAIT_MS = 5
#: Pairs (seconds since the last message, seconds between two fetches), used while no notifications arrive.
STEPS: Sequence[tuple[float, float]] = ((2.0, 0.003), (30.0, 0.02), (float("inf"), 0.1))
#: The delays in seconds between fetches while notifications arrive: from the first to the second, doubled by each empty
#: fetch. The broker has the record when the notification arrives, so repeated fetches are rarely needed.
NOTIFIED_S = (0.02, 0.5)
#: Like STEPS, for the requests topic: requests come from outside, so no notification announces them.
REQUEST_STEPS: Sequence[tuple[float, float]] = ((30.0, 0.02), (float("inf"), 0.1))


class PublishNotifications(Protocol):
    """Tells consumers that a topic has new records."""

    @property
    def connected(self) -> bool:
        """Whether a notification sent now would arrive."""
        ...

    def subscribe(self, topic: str, notify: Callable[[], None]) -> None:
        """Call `notify` whenever the topic has new records, and whenever notifications may have been lost."""
        ...


class FetchThrottle:
    """Delays the fetches of one consumer: until a notification arrives, at most for a time that depends on recent
    traffic.
    """

    def __init__(
        self,
        notifications: PublishNotifications | None = None,
        *,
        steps: Sequence[tuple[float, float]] = STEPS,
        max_fetch_delay_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the throttle of one consumer.

        - `steps`: the delays to use while notifications cannot arrive, see STEPS.
        - `max_fetch_delay_s`: the shortest time between two fetches. The first fetch after a quiet time is not delayed.
        - `clock`: returns seconds.
        """
        self._notifications = notifications
        self._steps = steps
        self._max_fetch_delay_s = max_fetch_delay_s
        self._left_at: float | None = None
        self._clock = clock
        self._last: float | None = None
        self._delay = NOTIFIED_S[0]
        self._notified = asyncio.Event()
        self._timeout: FetchTimeout | None = None

    def set_timeout_of(self, setter: Callable[[int], None]) -> None:
        """Let this throttle decide how many milliseconds the consumer's fetches wait at the broker.

        It passes the number to `setter`.
        """
        self._timeout = FetchTimeout(setter)
        self._timeout.ask(FETCH_WAIT_MS)

    @property
    def wait_s(self) -> float:
        """The seconds to wait before the next fetch when no notification arrives."""
        if self._notifications is not None and self._notifications.connected:
            return self._delay
        if self._last is None:
            return self._steps[-1][1]
        quiet = self._clock() - self._last
        return next(wait for until, wait in self._steps if quiet < until)

    def notify(self) -> None:
        """End the current delay, because there may be new records. If no delay is running, the next one is skipped."""
        self._notified.set()

    async def pause(self) -> None:
        """Wait until the next fetch of all partitions is due."""
        if not self._notified.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.wait_s):
                    await self._notified.wait()

    async def rest(self) -> None:
        """Wait until `max_fetch_delay_s` has passed since the last fetch."""
        if self._max_fetch_delay_s and self._left_at is not None:
            left = self._left_at + self._max_fetch_delay_s - self._clock()
            if left > 0:
                await asyncio.sleep(left)

    def leaving(self) -> None:
        """Remember the current time as that of the last fetch. Call it when a fetch is sent."""
        self._left_at = self._clock()

    def fetching(self) -> None:
        """Clear the notification, because a fetch of all partitions is sent now.

        This fetch finds the records of all earlier notifications.
        """
        if self._notified.is_set():
            self._notified.clear()
            self._delay = NOTIFIED_S[0]

    def fetched(self, *, found: bool, missed: bool) -> None:
        """Adapt the delays to the result of a fetch.

        `found`: the fetch returned records. `missed`: the broker reported more records in a partition than it returned.
        """
        if self._timeout is not None:
            self._timeout.fetched(found=found, missed=missed)
        if missed:
            self.notify()
        if found:
            self._last = self._clock()
            self._delay = NOTIFIED_S[0]
        else:
            self._delay = min(self._delay * 2, NOTIFIED_S[1])
