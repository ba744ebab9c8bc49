"""The world of one run: processes that crash and restart, servers that never crash, and the calls between them.

A fault can hit a call before the server runs it, while the server runs it, or on the way back. The server always
finishes a call that it has begun, as a database does when its client dies.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from nightshift.eventlog.errors import Unavailable
from nightshift.simulation.fault_profile import FaultProfile
from nightshift.simulation.loop import CURRENT_RUN, ProcessRun, SimulatedLoop

T = TypeVar("T")

#: The time of day at which every simulated world begins.
BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)
#: The shortest and the longest time, in seconds, until a crashed process restarts.
RESTART = (0.1, 5.0)


class Violation(AssertionError):
    """An invariant that the run broke."""


class SimulatedProcess:
    """A program with memory of its own. It can crash at every remote call, and then restarts from `main`."""

    def __init__(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.name = name
        self.main = main
        self.crashes = 0
        self.run: ProcessRun | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended.add_done_callback(_retrieve)


class World:
    """Processes, clock, faults and random draws of one run. `trace` lists what happened, one line an entry."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draws = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self.profile = FaultProfile.draw(self.draws)
        self.loop = SimulatedLoop(self.draws)
        self.loop.set_task_factory(self._make_task)
        self.trace: list[str] = []
        self.faults = 0
        self._outside = copy_context()
        self._outside.run(CURRENT_RUN.set, None)
        self._inside_tasks: list[tuple[ProcessRun, asyncio.Task[Any]]] = []
        self._supervisors: set[asyncio.Task[None]] = set()

    def now(self) -> datetime:
        """Returns the virtual time of day. All processes and servers share this clock."""
        return BEGINNING + timedelta(seconds=self.loop.time())

    def note(self, text: str) -> None:
        """Adds a line to the trace, with the virtual time and the name of the current process."""
        run = CURRENT_RUN.get()
        self.trace.append(f"{self.loop.time():12.6f} {run.name if run else '-':<12} {text}")

    @property
    def faulty(self) -> bool:
        """Whether faults still happen."""
        return self.loop.time() < self.profile.faults_end_after

    def strikes(self, probability: float) -> bool:
        """Draws whether a fault of this probability happens now, and counts it."""
        struck = self.faulty and self.draws.random() < probability
        self.faults += struck
        return struck

    async def pause(self) -> None:
        """Waits for one drawn latency."""
        await asyncio.sleep(self.profile.latency(self.draws))

    async def remote(self, what: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs `call` at a server and returns its result.

        Raises Unavailable for a lost request or a lost answer, so the call may have run or not. The calling process
        can crash before, during and after the call.
        """
        await self._crash_point(f"before {what}")
        await self.pause()
        if self.strikes(self.profile.lost_requests):
            self.note(f"{what}: request lost")
            raise Unavailable(f"{what}: the connection was reset")
        answer = await self._at_the_server(what, call)
        await self._crash_point(f"after {what}")
        await self.pause()
        if self.strikes(self.profile.lost_answers):
            self.note(f"{what}: done, answer lost")
            raise Unavailable(f"{what}: the connection was reset")
        self.note(what)
        return answer

    async def insist(self, what: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Calls `remote` again until it does not raise Unavailable. For calls that may run more than once."""
        while True:
            try:
                return await self.remote(what, call)
            except Unavailable:
                await self.pause()

    def start(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> SimulatedProcess:
        """Starts a process. It restarts after each crash until its `main` returns or raises."""
        process = SimulatedProcess(name, main)
        supervisor = self.loop.create_task(self._supervise(process), context=self._outside.copy())
        self._supervisors.add(supervisor)
        return process

    def kill(self, process: SimulatedProcess, reason: str) -> None:
        """Crashes a process now, as SIGKILL does, and counts a fault. Does nothing when the process is down."""
        if process.run is not None and not process.run.over:
            self.faults += 1
            self._crash(process.run, reason)

    def stop(self, process: SimulatedProcess, seconds: float) -> None:
        """Stops a process for this long, as SIGSTOP does, and counts a fault. Does nothing when it is down."""
        if process.run is not None and not process.run.over:
            self.faults += 1
            process.run.stopped_until = self.loop.time() + seconds
            self.note(f"{process.name} is stopped for {seconds:.1f} s")

    async def finish(self, processes: Sequence[SimulatedProcess], *, within: float) -> None:
        """Waits until every process has returned. Raises what a process raises.

        Raises Violation when one has not returned after `within` virtual seconds.
        """
        try:
            async with asyncio.timeout(within):
                for process in processes:
                    await asyncio.shield(process.ended)
        except TimeoutError:
            late = ", ".join(process.name for process in processes if not process.ended.done())
            raise Violation(f"not done {within:.0f} s after the beginning: {late}") from None

    def close(self) -> None:
        """Ends every task, those of crashed processes included, and closes the loop."""
        for run, task in self._inside_tasks:
            if run.over and not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # a crashed task never finishes
                _close(task.get_coro())
        dead = {task for run, task in self._inside_tasks if run.over}
        living = asyncio.all_tasks(self.loop) - dead
        for task in living:
            task.cancel()
        if living:
            self.loop.run_until_complete(asyncio.wait(living))
        self.loop.close()

    async def _supervise(self, process: SimulatedProcess) -> None:
        while True:
            run = process.run = ProcessRun(process.name)
            context = self._outside.copy()
            context.run(CURRENT_RUN.set, run)
            running = self.loop.create_task(process.main(), context=context)
            crash = asyncio.create_task(run.crashed.wait())
            await asyncio.wait({running, crash}, return_when=asyncio.FIRST_COMPLETED)
            crash.cancel()
            run.over = True
            if running.done():
                error = running.exception()
                if error is None:
                    process.ended.set_result(None)
                else:
                    process.ended.set_exception(error)
                return
            process.crashes += 1
            await asyncio.sleep(self.draws.uniform(*RESTART))

    async def _crash_point(self, where: str) -> None:
        run = CURRENT_RUN.get()
        if run is not None and self.strikes(self.profile.crashes):
            self._crash(run, where)
            await asyncio.sleep(0)  # the loop drops this task here

    def _crash(self, run: ProcessRun, where: str) -> None:
        if not run.over:
            self.note(f"{run.name} crashes {where}")
            run.over = True
            run.crashed.set()

    async def _at_the_server(self, what: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        work = self.loop.create_task(call(), context=self._outside.copy())
        work.add_done_callback(_retrieve, context=self._outside)  # the caller may have crashed
        run = CURRENT_RUN.get()
        if run is not None and self.strikes(self.profile.crashes):
            later = self.profile.latency(self.draws)
            self.loop.call_later(later, self._crash, run, f"during {what}", context=self._outside.copy())
        return await asyncio.shield(work)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, *, context: Context | None = None
    ) -> asyncio.Task[Any]:
        if context is not None and CURRENT_RUN not in context:
            context.run(CURRENT_RUN.set, CURRENT_RUN.get())  # an empty context does not leave the process
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, context=context)
        run = CURRENT_RUN.get() if context is None else context[CURRENT_RUN]
        if run is not None:
            self._inside_tasks.append((run, task))
        return task


def _close(coroutine: Any) -> None:
    """Closes the coroutine of a crashed process. Ignores what its `finally` blocks await or raise."""
    for _ in range(100):
        try:
            coroutine.close()
        except RuntimeError:  # a `finally` awaits something: close that too
            continue
        except Exception:  # noqa: BLE001 - the process has crashed
            return
        return


def _retrieve(work: "asyncio.Future[Any]") -> None:
    """Retrieves the exception of a call whose caller has crashed, so that asyncio does not log it."""
    if not work.cancelled():
        work.exception()
