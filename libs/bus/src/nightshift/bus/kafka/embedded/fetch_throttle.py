"""When a consumer fetches again from a broker that does not wake a waiting fetch."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from nightshift.bus.kafka.embedded.fetch_timeout import FetchTimeout

#: The wait of a fetch at the broker. With less, a busy embedded broker answers without having looked.
FETCH_WAIT_MS = 5
#: Seconds since the last message → seconds between two fetches, without notifications.
STEPS: Sequence[tuple[float, float]] = ((2.0, 0.003), (30.0, 0.02), (float("inf"), 0.1))
#: With notifications: from the first to the second, doubling with each empty fetch. The notification follows the
#: acknowledgement, so the first is only for a broker that did not find the record yet.
NOTIFIED_S = (0.02, 0.5)
#: For requests, which come from outside without notifications.
REQUEST_STEPS: Sequence[tuple[float, float]] = ((30.0, 0.02), (float("inf"), 0.1))


class PublishNotifications(Protocol):
    """Notifications of topics with new records."""

    @property
    def connected(self) -> bool:
        """Whether a notification would arrive now."""
        ...

    def subscribe(self, topic: str, notify: Callable[[], None]) -> None:
        """Call `notify` whenever the topic has new records, or may have had some unnoticed."""
        ...


class FetchThrottle:
    """Delays the fetches of one consumer."""

    def __init__(
        self,
        notifications: PublishNotifications | None = None,
        *,
        steps: Sequence[tuple[float, float]] = STEPS,
        max_fetch_delay_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`steps` are the delays while no notifications arrive. `clock` returns seconds.

        `max_fetch_delay_s` is the least time between two fetches; the first fetch after a quiet time is not delayed.
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
        """Set the wait of this consumer's fetches at the broker, in milliseconds, from now on."""
        self._timeout = FetchTimeout(setter)
        self._timeout.ask(FETCH_WAIT_MS)

    @property
    def wait_s(self) -> float:
        """The delay before the next fetch when no notification arrives."""
        if self._notifications is not None and self._notifications.connected:
            return self._delay
        if self._last is None:
            return self._steps[-1][1]
        quiet = self._clock() - self._last
        return next(wait for until, wait in self._steps if quiet < until)

    def notify(self) -> None:
        """End the current delay, or the next one: there may be something to fetch."""
        self._notified.set()

    async def pause(self) -> None:
        """Return when the next fetch of all partitions is due."""
        if not self._notified.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.wait_s):
                    await self._notified.wait()

    async def rest(self) -> None:
        """Return when any fetch may leave."""
        if self._max_fetch_delay_s and self._left_at is not None:
            left = self._left_at + self._max_fetch_delay_s - self._clock()
            if left > 0:
                await asyncio.sleep(left)

    def leaving(self) -> None:
        """Note that a fetch leaves now."""
        self._left_at = self._clock()

    def fetching(self) -> None:
        """Note that a fetch of all partitions leaves now: it finds what notifications were about."""
        if self._notified.is_set():
            self._notified.clear()
            self._delay = NOTIFIED_S[0]

    def fetched(self, *, found: bool, missed: bool) -> None:
        """Adapt to a fetch. `missed`: the broker reported more in a partition than it returned."""
        if self._timeout is not None:
            self._timeout.fetched(found=found, missed=missed)
        if missed:
            self.notify()
        if found:
            self._last = self._clock()
            self._delay = NOTIFIED_S[0]
        else:
            self._delay = min(self._delay * 2, NOTIFIED_S[1])
