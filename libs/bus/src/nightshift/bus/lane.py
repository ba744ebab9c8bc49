"""One partition's messages, settled one after the other in a task of their own."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from nightshift.bus.port import Inbound, Partition, offset_after
from nightshift.bus.restart_guard import RestartGuard


class Lane:
    """Order within a partition. `idle` is set while nothing is in hand."""

    def __init__(
        self,
        partition: Partition,
        *,
        settle: Callable[[Inbound, "Lane"], Awaitable[None]],
        on_settled: Callable[[Partition, int], None],
        on_idle: Callable[["Lane"], None],
        guard: RestartGuard | None = None,
    ) -> None:
        self.partition = partition
        self.idle = asyncio.Event()
        self.idle.set()
        self.guard = guard
        self.settled = 0  # messages, since the partition was assigned
        self.next_offset: int | None = None
        self.paused = False
        self.waiting = False  # on purpose: set by whoever waits
        self.closing = False
        self._settle = settle
        self._on_settled = on_settled
        self._on_idle = on_idle
        self._queue: deque[Inbound] = deque()
        self._arrived = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"lane {partition.topic}/{partition.partition}")

    def put(self, message: Inbound) -> None:
        """The next message of this partition."""
        self._queue.append(message)
        self.idle.clear()
        self._arrived.set()

    async def close(self, bound_s: float) -> None:
        """Finish the message in hand within the bound (one that only waits is let go at once), drop the others."""
        self.closing = True
        self._queue.clear()
        if not self.waiting and not self.idle.is_set():
            await asyncio.wait([self._task], timeout=bound_s)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self.closing:
            while self._queue:
                message = self._queue.popleft()
                await self._settle(message, self)
                self.settled += 1
                self.next_offset = offset_after(message)
                self._on_settled(self.partition, self.next_offset)
            self._arrived.clear()
            self.idle.set()
            self._on_idle(self)
            if not self.closing:
                await self._arrived.wait()
