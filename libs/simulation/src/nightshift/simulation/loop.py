"""The event loop of a simulation: time jumps to the next timer, and the seed picks which ready callback runs next.

It stands on BaseEventLoop's own queues (`_ready`, `_scheduled`): there is no selector, no socket and no thread in it.
"""

import asyncio
import heapq
import random
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any


class ProcessRun:
    """A simulated process from its start to its crash. After the crash no callback of it runs any more."""

    __slots__ = ("crashed", "name", "over")

    def __init__(self, name: str) -> None:
        self.name = name
        self.over = False
        self.crashed = asyncio.Event()


#: Whose code is running; inherited by every task and callback it starts. None: the world outside of all processes.
CURRENT_RUN: ContextVar[ProcessRun | None] = ContextVar("nightshift_simulated_life", default=None)


class Stalled(RuntimeError):
    """Everybody waits and no timer is left: a deadlock."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """Same draws, same run."""

    _ready: Any
    _scheduled: list[Any]
    _stopping: bool
    _asyncgens: Any

    def __init__(self, draws: random.Random) -> None:
        super().__init__()
        self._draws = draws
        self._now = 0.0

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._now

    def run_in_executor(  # type: ignore[override]  # the base binds the arguments' types to the function's
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """There are no threads here: the call runs in one piece, some virtual time later."""

        async def later() -> Any:
            await asyncio.sleep(self._draws.uniform(0.001, 0.1))
            return func(*args)

        return self.create_task(later())

    def _run_once(self) -> None:
        """One step: BaseEventLoop.run_forever calls it until the loop is stopped."""
        self._wake()
        while not self._ready:
            if self._stopping:
                return
            self._jump()
            self._wake()
        self._ready.rotate(-self._draws.randrange(len(self._ready)))
        self._ready.popleft()._run()

    def _wake(self) -> None:
        """Make the timers that are due ready, and drop what was cancelled or belongs to a run that is over.

        The latter is SIGKILL: no `finally` of a dead process is run.
        """
        while self._scheduled and self._scheduled[0].when() <= self._now:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False
            self._ready.append(timer)
        if any(map(_is_void, self._ready)):
            living = [handle for handle in self._ready if not _is_void(handle)]
            self._ready.clear()
            self._ready.extend(living)

    def _jump(self) -> None:
        """Let the time pass until the next timer."""
        while self._scheduled and _is_void(self._scheduled[0]):
            heapq.heappop(self._scheduled)._scheduled = False
        if not self._scheduled:
            raise Stalled("everybody waits, and no timer is left to wake anybody")
        self._now = self._scheduled[0].when()

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """A generator nobody will ask again is dropped: closing it would wake the dead."""
        self._asyncgens.discard(agen)

    def _write_to_self(self) -> None:
        """Wakes a loop that sleeps in its selector; this one has none."""


def _is_void(handle: Any) -> bool:
    context: Context = handle._context
    run = context.get(CURRENT_RUN)
    return handle._cancelled or (run is not None and run.over)
