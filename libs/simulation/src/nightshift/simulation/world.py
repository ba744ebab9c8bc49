"""The world of one simulated run: processes that crash and restart, servers that never crash, and calls between them.

A fault can occur before the server runs a call, while it runs it, or on the way back. The server always completes a
call that it has begun, like a database whose client dies.
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

#: The date and time at which every simulated world begins.
BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)
#: The shortest and the longest time in seconds until a crashed process restarts.
RESTART = (0.1, 5.0)


class Violation(AssertionError):
    """A scenario found that one of its invariants is broken."""


class SimulatedProcess:
    """A program with its own memory. It can crash at every remote call, and then starts again with `main`."""

    def __init__(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.name = name
        self.main = main
        self.crashes = 0
        self.run: ProcessRun | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended.add_done_callback(_retrieve)


class World:
    """The processes, clock, faults and random numbers of one run. `trace` lists what happened, one line each."""

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
        """Returns the virtual date and time. All processes and servers share this clock."""
        return BEGINNING + timedelta(seconds=self.loop.time())

    def note(self, text: str) -> None:
        """Adds a line to the trace, with the virtual time and the name of the current process."""
        run = CURRENT_RUN.get()
        self.trace.append(f"{self.loop.time():12.6f} {run.name if run else '-':<12} {text}")

    @property
    def faulty(self) -> bool:
        """Whether faults still occur at this virtual time."""
        return self.loop.time() < self.profile.faults_end_after

    def strikes(self, probability: float) -> bool:
        """Draws whether a fault of this probability occurs now, and counts it if so."""
        struck = self.faulty and self.draws.random() < probability
        self.faults += struck
        return struck

    async def pause(self) -> None:
        """Waits for one random latency."""
        await asyncio.sleep(self.profile.latency(self.draws))

    async def remote(self, what: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs `call` at a server and returns its result. `what` names the call in the trace.

        Raises Unavailable when the request or the answer is lost, so the call may have run or not. The calling process
        may crash before, during and after the call.
        """
        await self._request(what)
        return await self._answer(what, await self._at_the_server(what, call))

    async def instant(self, what: str, work: Callable[[], T]) -> T:
        """Does the same as `remote`, for `work` that the server does in one step.

        The simulation needs half as long for it.
        """
        await self._request(what)
        answer = self._outside.run(work)
        self._crash_later(what)
        return await self._answer(what, answer)

    async def _request(self, what: str) -> None:
        await self._crash_point(f"before {what}")
        await self.pause()
        if self.strikes(self.profile.lost_requests):
            self.note(f"{what}: request lost")
            raise Unavailable(f"{what}: the connection was reset")

    async def _answer(self, what: str, answer: T) -> T:
        await self._crash_point(f"after {what}")
        await self.pause()
        if self.strikes(self.profile.lost_answers):
            self.note(f"{what}: done, answer lost")
            raise Unavailable(f"{what}: the connection was reset")
        self.note(what)
        return answer

    async def insist(self, what: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Calls `remote` until it does not raise Unavailable. Only for calls that may run more than once."""
        while True:
            try:
                return await self.remote(what, call)
            except Unavailable:
                await self.pause()

    def start(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> SimulatedProcess:
        """Starts a process. It restarts after each crash until `main` returns or raises."""
        process = SimulatedProcess(name, main)
        supervisor = self.loop.create_task(self._supervise(process), context=self._outside.copy())
        self._supervisors.add(supervisor)
        return process

    def kill(self, process: SimulatedProcess, reason: str) -> None:
        """Crashes a process now, like SIGKILL, and counts a fault. Does nothing when the process is not running."""
        if process.run is not None and not process.run.over:
            self.faults += 1
            self._crash(process.run, reason)

    def stop(self, process: SimulatedProcess, seconds: float) -> None:
        """Stops a process for so many virtual seconds, like SIGSTOP, and counts a fault.

        Does nothing when it is not running.
        """
        if process.run is not None and not process.run.over:
            self.faults += 1
            process.run.stopped_until = self.loop.time() + seconds
            self.note(f"{process.name} is stopped for {seconds:.1f} s")

    async def finish(self, processes: Sequence[SimulatedProcess], *, within: float) -> None:
        """Waits until every process has returned. Raises the error of a process that failed.

        Raises Violation when one has not returned within so many virtual seconds.
        """
        try:
            async with asyncio.timeout(within):
                for process in processes:
                    await asyncio.shield(process.ended)
        except TimeoutError:
            late = ", ".join(process.name for process in processes if not process.ended.done())
            raise Violation(f"not done {within:.0f} s after the beginning: {late}") from None

    def close(self) -> None:
        """Ends all tasks, including those of crashed processes, and closes the loop."""
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
            await asyncio.sleep(0)  # the task never continues from here

    def _crash(self, run: ProcessRun, where: str) -> None:
        if not run.over:
            self.note(f"{run.name} crashes {where}")
            run.over = True
            run.crashed.set()

    async def _at_the_server(self, what: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        work = self.loop.create_task(call(), context=self._outside.copy())
        work.add_done_callback(_retrieve, context=self._outside)  # the caller may have crashed by then
        self._crash_later(what)
        return await asyncio.shield(work)

    def _crash_later(self, what: str) -> None:
        """Draws whether the calling process crashes soon: while the server works, or while its answer is on the way."""
        run = CURRENT_RUN.get()
        if run is not None and self.strikes(self.profile.crashes):
            later = self.profile.latency(self.draws)
            self.loop.call_later(later, self._crash, run, f"during {what}", context=self._outside.copy())

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, *, context: Context | None = None
    ) -> asyncio.Task[Any]:
        if context is not None and CURRENT_RUN not in context:
            # A task in an empty context still belongs to the process.
            context.run(CURRENT_RUN.set, CURRENT_RUN.get())
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
        except RuntimeError:  # a `finally` block awaits something: close again
            continue
        except Exception:  # noqa: BLE001 - the process has crashed
            return
        return


def _retrieve(work: "asyncio.Future[Any]") -> None:
    """Retrieves the exception of a call whose caller has crashed, so that asyncio does not log it."""
    if not work.cancelled():
        work.exception()
