"""Processes the messages of one partition in order, in a task of its own."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from nightshift.bus.port import Inbound, TopicPartition, offset_after
from nightshift.bus.restart_guard import RestartGuard


class PartitionWorker:
    """A queue with the messages of one partition, and the task that processes them in order.

    The event `idle` is set while no message is queued or being processed. The message processor sets `waiting` while
    the current message waits on purpose, for example for a retry.
    """

    def __init__(
        self,
        partition: TopicPartition,
        *,
        process: Callable[[Inbound, "PartitionWorker"], Awaitable[None]],
        on_settled: Callable[[TopicPartition, int], None],
        on_idle: Callable[["PartitionWorker"], None],
        guard: RestartGuard | None = None,
    ) -> None:
        """Create the worker and start its task.

        After each message the worker calls `on_settled` with the offset of the next message. It calls `on_idle`
        whenever its queue becomes empty.
        """
        self.partition = partition
        self.guard = guard
        self.idle = asyncio.Event()
        self.idle.set()
        self.settled = 0  # messages processed since the partition was assigned
        self.first_offset: int | None = None  # of the first message since the partition was assigned
        self.next_offset: int | None = None
        self.paused = False
        self.waiting = False
        self.closing = False
        self._process = process
        self._on_settled = on_settled
        self._on_idle = on_idle
        self._queue: deque[Inbound] = deque()
        self._arrived = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"worker {partition.topic}/{partition.partition}")

    def put(self, message: Inbound) -> None:
        """Append the next message of the partition to the queue."""
        if self.first_offset is None:
            self.first_offset = message.offset
        self._queue.append(message)
        self.idle.clear()
        self._arrived.set()

    async def close(self, bound_s: float) -> None:
        """Stop the worker and drop its queued messages.

        The message being processed has up to `bound_s` seconds to finish. A message that only waits is cancelled at
        once.
        """
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
                await self._process(message, self)
                self.settled += 1
                self.next_offset = offset_after(message)
                self._on_settled(self.partition, self.next_offset)
            self._arrived.clear()
            self.idle.set()
            self._on_idle(self)
            if not self.closing:
                await self._arrived.wait()
