"""The work on one build at a time: under its lease, group after group, until nothing waits."""

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from nightshift.eventlog.errors import Transient
from nightshift.eventlog.leases.port import Lease, Leases
from nightshift.eventlog.port import EventLog, build_stream
from nightshift.sandbox_gateway.domain.order import groups
from nightshift.sandbox_gateway.domain.view import View, evolve
from nightshift.sandbox_gateway.usecases.answers import Answers
from nightshift.sandbox_gateway.usecases.boxes import Boxes, Moved
from nightshift.sandbox_gateway.usecases.group import GroupRun
from nightshift.sandbox_gateway.usecases.tools.ports import Http
from nightshift.sandboxes.errors import SandboxGone

_log = structlog.get_logger(__name__)
_VIEWS = 2000


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. `lease`: how long a dead gateway's builds wait for another. `again`: the first pause after an error."""

    lease: float = 6.0
    again: float = 1.0
    again_most: float = 30.0


@dataclass(slots=True)
class Gateway:
    """`later(build, seconds)` has to call `work` for this build again."""

    log: EventLog
    leases: Leases
    owner: str
    boxes: Boxes
    answers: Answers
    http: Http
    later: Callable[[str, float], None]
    times: Times = field(default_factory=Times)
    _views: OrderedDict[str, View] = field(default_factory=OrderedDict)
    _failures: dict[str, int] = field(default_factory=dict)
    _cancelled: dict[str, asyncio.Event] = field(default_factory=dict)

    async def work(self, build_id: str) -> None:
        """Do all that waits in this build. When another gateway is at it, look again when its lease may be over."""
        try:
            if await self._needs_lease(build_id):
                await self._under_lease(build_id)
            self._failures.pop(build_id, None)
        except Transient as error:
            failures = self._failures[build_id] = self._failures.get(build_id, 0) + 1
            wait = min(self.times.again * 2 ** (failures - 1), self.times.again_most)
            _log.warning("tool calls wait", build_id=build_id, error=str(error), again_s=wait)
            self.later(build_id, wait)

    async def _needs_lease(self, build_id: str) -> bool:
        """Answer what needs no sandbox; whether anything is left.

        The lease is for the sandbox. Whoever answers a call without one, the answer is the same and stands once.
        """
        view = await self.view(build_id)
        run = GroupRun(self.boxes, self.answers, self.http, view, asyncio.Event())
        answered = await run.at_once(view.pending.values())
        left = {call_id: call for call_id, call in view.pending.items() if call_id not in answered}
        return bool(left) or view.to_close is not None or view.to_pause is not None

    async def _under_lease(self, build_id: str) -> None:
        lease = await self.leases.acquire(f"sandbox/{build_id}", self.owner, ttl=self.times.lease)
        if lease is None:
            self.later(build_id, self.times.lease / 2 * random.uniform(0.8, 1.2))  # noqa: S311 - a jitter
            return
        async with self._held(build_id, lease):
            await self._until_done(build_id)

    def cancel(self, build_id: str) -> None:
        """Stop what runs for this build here, if anything does."""
        if (event := self._cancelled.get(build_id)) is not None:
            event.set()

    @asynccontextmanager
    async def _held(self, build_id: str, lease: Lease) -> AsyncIterator[None]:
        """Hold the lease. When it is lost the work is given up: the call in the sandbox goes on, others attach."""
        worker = asyncio.current_task()
        self._cancelled[build_id] = asyncio.Event()

        async def keep() -> None:
            while True:
                await asyncio.sleep(self.times.lease / 3)
                if not await self.leases.renew(lease, ttl=self.times.lease):
                    _log.warning("lease lost", build_id=build_id)
                    self.later(build_id, self.times.lease)
                    if worker is not None:
                        worker.cancel()
                    return
                if (await self.view(build_id)).ended is not None:
                    self.cancel(build_id)  # whoever got the message, we see it here

        keeper = asyncio.create_task(keep(), name=f"lease {build_id}")
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            self._cancelled.pop(build_id, None)
            await self.leases.release(lease)

    async def _until_done(self, build_id: str) -> None:
        while True:
            view = await self.view(build_id)
            try:
                if not await self._step(view):
                    return
            except Moved:
                continue

    async def _step(self, view: View) -> bool:
        """One thing that waits. False when nothing does."""
        if view.pending:
            todo = groups(view.pending.values())[0]
            await GroupRun(self.boxes, self.answers, self.http, view, self._cancelled[view.build_id]).run(
                todo
            )
        elif view.to_close is not None:
            await self.boxes.close(view)
        elif view.to_pause is not None:
            try:
                await self.boxes.pause(view)
            except SandboxGone as error:
                await self.boxes.append(view, self.boxes.lost(view, error))
        else:
            return False
        return True

    async def view(self, build_id: str) -> View:
        """The build as the log has it now. Kept, and read on from where it was."""
        view = self._views.get(build_id) or View(build_id)
        async for event in self.log.read_stream(build_stream(build_id), from_version=view.version + 1):
            view = evolve(view, event)
        kept = self._views.get(build_id)
        if kept is None or kept.version <= view.version:
            self._views[build_id] = view
            self._views.move_to_end(build_id)
        while len(self._views) > _VIEWS:
            self._views.popitem(last=False)
        return view
