"""The event loop of a simulation.

Its time jumps to the next timer, and the seed decides which ready callback runs next. It uses the private queues of
BaseEventLoop (`_ready`, `_scheduled`), and has no selector, sockets or threads.
"""

import asyncio
import heapq
import random
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any


class ProcessRun:
    """One run of a simulated process, from a start to a crash.

    After the crash, `over` is True and no callback of it runs.
    """

    __slots__ = ("crashed", "name", "over", "stopped_until")

    def __init__(self, name: str) -> None:
        self.name = name
        self.over = False
        self.stopped_until = 0.0  # virtual time: as after SIGSTOP, no callback of the process runs before
        self.crashed = asyncio.Event()


#: The process run to which the current code belongs; tasks and callbacks inherit it. None: code outside of all
#: processes.
CURRENT_RUN: ContextVar[ProcessRun | None] = ContextVar("nightshift_simulated_life", default=None)


class Stalled(RuntimeError):
    """A deadlock: every task waits, and there is no timer that could wake one."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop that runs callbacks in an order that depends only on `draws`, the random generator of the run."""

    _ready: Any
    _scheduled: list[Any]
    _stopping: bool
    _asyncgens: Any

    def __init__(self, draws: random.Random) -> None:
        super().__init__()
        self._draws = draws
        self._now = 0.0

    def time(self) -> float:
        """Returns the virtual seconds since the loop was created."""
        return self._now

    def run_in_executor(  # type: ignore[override]  # the base binds the arguments' types to the function's
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Runs the function on this loop after a random delay, because there are no threads."""

        async def later() -> Any:
            await asyncio.sleep(self._draws.uniform(0.001, 0.1))
            return func(*args)

        return self.create_task(later())

    def _run_once(self) -> None:
        """Runs one callback. BaseEventLoop.run_forever calls this until the loop is stopped."""
        ready = self._ready
        self._wake()
        while not ready:
            if self._stopping:
                return
            self._jump()
            self._wake()
        if (count := len(ready)) > 1:
            ready.rotate(-int(self._draws.random() * count))
        handle = ready.popleft()
        run = handle._context.get(CURRENT_RUN)
        if run is None:
            if not handle._cancelled:
                handle._run()
        elif run.stopped_until > self._now:
            self.call_at(run.stopped_until, _run_late, handle, context=handle._context.copy())
        elif not (handle._cancelled or run.over):
            handle._run()

    def _wake(self) -> None:
        """Moves the timers that are due to the ready queue."""
        timers, now = self._scheduled, self._now
        while timers and timers[0]._when <= now:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            self._ready.append(timer)

    def _jump(self) -> None:
        """Advances the virtual time to the next timer. Raises Stalled when there is no timer."""
        while self._scheduled and _is_void(self._scheduled[0]):
            heapq.heappop(self._scheduled)._scheduled = False
        if not self._scheduled:
            raise Stalled("every task waits, and no timer is left")
        self._now = self._scheduled[0].when()

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """Forgets a generator that was not finished. Closing it would run code of a crashed process."""
        self._asyncgens.discard(agen)

    def _write_to_self(self) -> None:
        """Does nothing, because there is no selector to wake."""


def _run_late(handle: Any) -> None:
    """Runs a callback that had to wait while its process was stopped, unless it was cancelled meanwhile."""
    if not handle._cancelled:
        handle._run()


def _is_void(handle: Any) -> bool:
    """Returns whether a callback must not run: it is cancelled, or its process has crashed.

    A crash is like SIGKILL: no code of the process runs afterwards, not even a `finally` block.
    """
    context: Context = handle._context
    run = context.get(CURRENT_RUN)
    return handle._cancelled or (run is not None and run.over)
