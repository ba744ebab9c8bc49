"""When to ask again a broker that does not wake a waiting fetch when data arrives (the embedded one).

There a fetch that waits is a hop that waits. So it does not, and the waiting is done here: until the relay says that
the topic has got something, and where nobody says so, for as long as the traffic suggests. A broker that wakes its
fetches (Apache Kafka) keeps the client's defaults.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from nightshift.bus.kafka.look import Look

#: What a fetch may take at the broker. With less the embedded one, when it is busy, answers without having looked.
LOOK_MS = 5
#: Seconds since the last message → seconds between two fetches, where nobody tells of messages.
STEPS: Sequence[tuple[float, float]] = ((2.0, 0.003), (30.0, 0.02), (float("inf"), 0.1))
#: Where the relay's word is heard: from the first to the second, doubling with each fetch that brought nothing. The
#: word comes after the acknowledgement, so the first is only for a broker that did not look.
TOLD_S = (0.02, 0.5)
#: For requests, which come from outside and of which nobody tells: seldom, and not one after the other.
REQUEST_STEPS: Sequence[tuple[float, float]] = ((30.0, 0.02), (float("inf"), 0.1))


class Wakes(Protocol):
    """Word of what topics have got something. See `nightshift.bus.publish_notifications`."""

    @property
    def heard(self) -> bool:
        """Whether the word would reach us now."""
        ...

    def on(self, topic: str, ring: Callable[[], None]) -> None:
        """Have `ring` called whenever it has, or may have while nothing was heard."""
        ...


class FetchPace:
    """The pace of one consumer. `clock` counts seconds."""

    def __init__(
        self,
        wakes: Wakes | None = None,
        *,
        steps: Sequence[tuple[float, float]] = STEPS,
        patience_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wakes`: where the consumer's topic is told of. `steps`: the pace where it is not.

        `patience_s`: the least time between two fetches. The first one after a quiet while does not wait.
        """
        self._wakes = wakes
        self._steps = steps
        self._patience_s = patience_s
        self._left: float | None = None  # when the last fetch did
        self._clock = clock
        self._last: float | None = None
        self._patience = TOLD_S[0]
        self._rung = asyncio.Event()
        self._look: Look | None = None

    def set_wait_of(self, setter: Callable[[int], None]) -> None:
        """Decide from now on also how long this consumer's fetches wait at the broker (milliseconds)."""
        self._look = Look(setter)
        self._look.ask(LOOK_MS)

    @property
    def wait_s(self) -> float:
        """How long to wait now before the next fetch, when nobody rings."""
        if self._wakes is not None and self._wakes.heard:
            return self._patience
        if self._last is None:  # who has heard of nothing yet is at rest
            return self._steps[-1][1]
        quiet = self._clock() - self._last
        return next(wait for until, wait in self._steps if quiet < until)

    def ring(self) -> None:
        """There is something to fetch, or there may be: end the wait, or the next one."""
        self._rung.set()

    async def pause(self) -> None:
        """Returns when it is time for the next fetch."""
        if not self._rung.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.wait_s):
                    await self._rung.wait()

    async def rest(self) -> None:
        """Returns when a fetch may leave, be it of all partitions or not."""
        if self._patience_s and self._left is not None:
            left = self._left + self._patience_s - self._clock()
            if left > 0:
                await asyncio.sleep(left)

    def leaving(self) -> None:
        """A fetch leaves now."""
        self._left = self._clock()

    def fetching(self) -> None:
        """A fetch of all partitions leaves now: it finds what was rung for."""
        if self._rung.is_set():
            self._rung.clear()
            self._patience = TOLD_S[0]

    def fetched(self, *, found: bool, missed: bool) -> None:
        """What came of a fetch. `missed`: the broker told of more in a partition than it gave."""
        if self._look is not None:
            self._look.fetched(found=found, missed=missed)
        if missed:
            self.ring()
        if found:
            self._last = self._clock()
            self._patience = TOLD_S[0]
        else:
            self._patience = min(self._patience * 2, TOLD_S[1])
