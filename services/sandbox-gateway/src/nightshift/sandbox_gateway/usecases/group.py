"""One group of calls: a call that changes something alone, or reads side by side."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from nightshift.contracts.model import BlobRef
from nightshift.contracts.tools import ToolInput
from nightshift.eventlog.errors import EventIdReused, Fault, NightshiftError
from nightshift.eventlog.large import materialize
from nightshift.sandbox_gateway.domain.order import reads
from nightshift.sandbox_gateway.domain.outcome import Outcome
from nightshift.sandbox_gateway.domain.view import PendingCall, View
from nightshift.sandbox_gateway.usecases import run_call
from nightshift.sandbox_gateway.usecases.answers import Answers
from nightshift.sandbox_gateway.usecases.boxes import Boxes, Moved
from nightshift.sandbox_gateway.usecases.tools.context import Context
from nightshift.sandbox_gateway.usecases.tools.ports import Http
from nightshift.sandboxes.errors import SandboxGone
from nightshift.sandboxes.port import Sandbox

_log = structlog.get_logger(__name__)

_LOST = (
    "The sandbox was lost while this call waited or ran. It was not run again. The workspace comes back from the newest"
    " snapshot into a new sandbox; what was written after that snapshot, installed or started is gone. Look at the"
    " workspace before you go on."
)
_CANCELLED = Outcome("The build has ended; the call was not run.", "cancelled")


@dataclass(frozen=True, slots=True)
class GroupRun:
    boxes: Boxes
    answers: Answers
    http: Http
    view: View
    cancelled: asyncio.Event

    async def at_once(self, calls: Iterable[PendingCall]) -> frozenset[str]:
        """Answer those of these calls that need no sandbox, whatever runs in it; their ids."""
        answered = set()
        for call in calls:
            asked = call.asked
            if self.view.ended is not None or isinstance(asked.input, BlobRef):
                continue
            outcome = run_call.needing_no_sandbox(asked.tool, asked.input)
            if outcome is not None:
                await self.answers.give(self.view, call, outcome, duration_ms=0)
                answered.add(asked.call_id)
        return frozenset(answered)

    async def run(self, calls: Sequence[PendingCall]) -> None:
        """Answer these calls. Raises Transient when the world does not let us, Moved when the log went on."""
        asks = {call.asked.call_id: await self._ask(call) for call in calls}
        in_sandbox = []
        for call in calls:
            outcome = self._without_sandbox(asks[call.asked.call_id])
            if outcome is None:
                in_sandbox.append(call)
            else:
                await self.answers.give(self.view, call, outcome, duration_ms=0)
        if in_sandbox:
            await self._in_sandbox(in_sandbox, asks)

    def _without_sandbox(self, ask: ToolInput | Outcome) -> Outcome | None:
        if isinstance(ask, Outcome):
            return ask
        return _CANCELLED if self.view.ended is not None else run_call.without_sandbox(ask)

    async def _ask(self, call: PendingCall) -> ToolInput | Outcome:
        asked = await materialize(call.asked, self.answers.objects)
        if isinstance(asked.input, BlobRef):
            raise Fault(f"the input of {asked.call_id} is still a reference")
        return run_call.validated(asked.tool, asked.input)

    async def _in_sandbox(self, calls: Sequence[PendingCall], asks: dict[str, ToolInput | Outcome]) -> None:
        try:
            sandbox = await self.boxes.ready(self.view)
        except SandboxGone as error:
            # Nothing of a call that waited since a snapshot at rest can have happened: it runs in the next one.
            await self._lost(error, calls=() if self.view.safe_to_lose else calls)
            return
        results = await asyncio.gather(
            *(self._one(sandbox, call, asks[call.asked.call_id]) for call in calls), return_exceptions=True
        )
        gone = [result for result in results if isinstance(result, SandboxGone)]
        if gone:
            await self._lost(gone[0], calls=calls)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, SandboxGone):
                raise result

    async def _lost(self, error: SandboxGone, *, calls: Sequence[PendingCall]) -> None:
        """Say that the sandbox is gone, and in the same breath that a call which may have begun has failed with it."""
        _log.warning("sandbox lost", build_id=self.view.build_id, error=str(error))
        lost = self.boxes.lost(self.view, error)
        changing = [call for call in calls if not reads(call)]
        try:
            for call in changing:
                await self.answers.give(
                    self.view, call, Outcome(_LOST, "sandbox_lost"), duration_ms=0, with_=[lost]
                )
            if not changing:
                await self.boxes.append(self.view, lost)
        except EventIdReused:
            raise Moved from None

    async def _one(self, sandbox: Sandbox, call: PendingCall, ask: ToolInput | Outcome) -> None:
        started = time.monotonic()
        context = Context(
            build_id=self.view.build_id,
            call_id=call.asked.call_id,
            timeout_s=call.asked.timeout_s,
            sandbox=sandbox,
            env=self.answers.env(self.view),
            cancelled=self.cancelled,
            fail=self.boxes.fail,
        )
        try:
            outcome = ask if isinstance(ask, Outcome) else await run_call.run(context, ask, self.http)
        except NightshiftError:
            raise
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the agent waiting for ever
            _log.error("tool failed", call_id=context.call_id, tool=call.asked.tool, exc_info=error)
            outcome = Outcome(f"the tool itself failed: {type(error).__name__}", "tool")
        duration = int((time.monotonic() - started) * 1000)
        await self.answers.give(self.view, call, outcome, duration_ms=duration)
