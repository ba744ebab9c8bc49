"""Runs a tool call: parses its input, runs it in the sandbox if it needs one, and writes its result."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import structlog

from nightshift.contracts.events.build import ToolCallRequested
from nightshift.contracts.model import BlobRef
from nightshift.contracts.tools import (
    Bash,
    Document,
    EditFile,
    Glob,
    Grep,
    Narrate,
    OpenPort,
    PrepareWorkspace,
    ReadFile,
    TakeScreenshot,
    ToolInput,
    WriteFile,
)
from nightshift.eventlog.errors import EventIdReused, Fault, NightshiftError
from nightshift.eventlog.large import materialize
from nightshift.sandbox_gateway.domain.call_order import reads
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome
from nightshift.sandbox_gateway.domain.judge_calls import refused
from nightshift.sandbox_gateway.domain.parse_input import parse_input
from nightshift.sandbox_gateway.domain.sandbox_state import PendingCall, SandboxState
from nightshift.sandbox_gateway.ports import PreviewLink, PreviewProbe
from nightshift.sandbox_gateway.usecases.call_span import call_span, note_outcome
from nightshift.sandbox_gateway.usecases.result_writer import ResultWriter
from nightshift.sandbox_gateway.usecases.sandbox_lifecycle import SandboxLifecycle, StateOutdated
from nightshift.sandbox_gateway.usecases.source_delivery import SourceDelivery
from nightshift.sandbox_gateway.usecases.tools import files, search
from nightshift.sandbox_gateway.usecases.tools.bash import bash
from nightshift.sandbox_gateway.usecases.tools.context import Context
from nightshift.sandbox_gateway.usecases.tools.narrate import narrate
from nightshift.sandbox_gateway.usecases.tools.prepare import prepare
from nightshift.sandbox_gateway.usecases.tools.preview import open_port
from nightshift.sandbox_gateway.usecases.tools.screenshot import take_screenshot
from nightshift.sandboxes.errors import CallRecordLost, FileRefused, SandboxGone, SandboxHung
from nightshift.sandboxes.port import Sandbox
from nightshift.sandboxes.snapshots.rules import DEFAULT_EXCLUDE

_log = structlog.get_logger(__name__)

_LOST = CallOutcome(
    "The sandbox was lost while this call waited or ran. It was not run again. The workspace comes back from the newest"
    " snapshot into a new sandbox; what was written after that snapshot, installed or started is gone. Look at the"
    " workspace before you go on.",
    "sandbox_lost",
)
_CANCELLED = CallOutcome("The build ended before this call had a result.", "cancelled")


def _no_link(_sandbox_id: str, _port: int) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class CallRunner:
    lifecycle: SandboxLifecycle
    writer: ResultWriter
    probe: PreviewProbe
    delivery: SourceDelivery
    link: PreviewLink = _no_link
    #: Build id → the newest checkpoint whose files its sandbox keeps.
    _held: dict[str, int] = field(default_factory=dict)

    async def answer_at_once(self, state: SandboxState) -> bool:
        """Answer the pending calls that need no sandbox. Returns whether other calls remain.

        A call also remains when its input is in the object store, or when the build has ended. Needs no lease: every
        replica gives the same answer, and the log accepts it once.
        """
        left = False
        for call in state.pending.values():
            value = call.asked.input
            if state.ended is not None or isinstance(value, BlobRef):
                left = True
            elif (outcome := _without_sandbox(_parsed(call.asked, value))) is not None:
                await self._write(state, call, outcome)
            else:
                left = True
        return left

    async def run(self, state: SandboxState, calls: Sequence[PendingCall], cancelled: asyncio.Event) -> None:
        """Answer these calls, which may run at the same time. `cancelled` is set when the build ends.

        The caller must have the build's lease. Raises Transient when the calls must be tried again later, and
        StateOutdated when the log must be read again first.
        """
        if state.ended is not None:
            self._held.pop(state.build_id, None)
        in_sandbox: list[tuple[PendingCall, ToolInput]] = []
        for call in calls:
            ask = _CANCELLED if state.ended is not None else await self._parse(call)
            if (
                isinstance(ask, PrepareWorkspace)
                and (why := self.lifecycle.network.refusal(state)) is not None
            ):
                ask = CallOutcome(why, "refused")
            outcome = _without_sandbox(ask)
            if outcome is not None:
                await self._write(state, call, outcome)
            elif not isinstance(ask, CallOutcome):
                in_sandbox.append((call, ask))
        if in_sandbox:
            await self._in_sandbox(state, in_sandbox, cancelled)

    async def _write(self, state: SandboxState, call: PendingCall, outcome: CallOutcome) -> None:
        """Write the result of a call that needs no sandbox."""
        with call_span(state, call) as span:
            note_outcome(span, outcome)
            await self.writer.write(state, call, outcome)

    async def _parse(self, call: PendingCall) -> ToolInput | CallOutcome:
        asked = await materialize(call.asked, self.writer.objects)
        if isinstance(asked.input, BlobRef):
            raise Fault(f"the input of {asked.call_id} is still a reference")
        return _parsed(asked, asked.input)

    async def _in_sandbox(
        self, state: SandboxState, asks: Sequence[tuple[PendingCall, ToolInput]], cancelled: asyncio.Event
    ) -> None:
        calls = [call for call, _ in asks]
        try:
            sandbox = await self.lifecycle.ready(state)
            if not all(reads(call) for call in calls):
                await self._hold(state, sandbox)
                await self.delivery.commit(state, sandbox)
        except SandboxGone as error:
            # When no call began after the last snapshot at rest, nothing is lost: this call runs in the next sandbox.
            harmless = state.safe_to_lose and not isinstance(error, CallRecordLost)
            await self._lost(state, error, calls=() if harmless else calls)
            return
        except SandboxHung as error:
            await self._lost_if_hung(state, error, calls)
        results = await asyncio.gather(
            *(self._traced(state, sandbox, call, ask, cancelled) for call, ask in asks),
            return_exceptions=True,
        )
        gone = [result for result in results if isinstance(result, SandboxGone)]
        if gone:
            await self._lost(state, gone[0], calls=calls)
        for result in results:
            if isinstance(result, SandboxHung) and not gone:
                await self._lost_if_hung(state, result, calls)
            if isinstance(result, BaseException) and not isinstance(result, SandboxGone | SandboxHung):
                raise result

    async def _lost_if_hung(
        self, state: SandboxState, error: SandboxHung, calls: Sequence[PendingCall]
    ) -> NoReturn:
        """Count one more request that the sandbox left unanswered. Raises `error`, so that the calls are tried again.

        After several such requests in a row, records the sandbox as lost and raises StateOutdated instead.
        """
        gone = self.lifecycle.count_hung(state, error)
        if gone is None:
            raise error
        await self._lost(state, gone, calls=calls)
        raise StateOutdated from error

    async def _hold(self, state: SandboxState, sandbox: Sandbox) -> None:
        """Before a turn's first call that may write, ask the sandbox to keep a copy of the last checkpoint's files.

        The snapshotter may not have stored these files yet. Does nothing when the copy exists, or when the sandbox was
        opened after the checkpoint.
        """
        opened = state.sandbox.opened_version if state.sandbox is not None else state.checkpoint
        if opened >= state.checkpoint or self._held.get(state.build_id) == state.checkpoint:
            return
        await sandbox.hold(state.checkpoint, exclude=DEFAULT_EXCLUDE)
        self._held[state.build_id] = state.checkpoint

    async def _lost(self, state: SandboxState, error: SandboxGone, *, calls: Sequence[PendingCall]) -> None:
        """Append sandbox.lost. In the same transaction, append a failed result for each of `calls` that may have
        changed the sandbox.

        Raises StateOutdated when the log has these events already.
        """
        _log.warning("sandbox.lost", build_id=state.build_id, error=str(error))
        lost = self.lifecycle.lost(state, error)
        changing = [call for call in calls if not reads(call)]
        try:
            for call in changing:
                await self.writer.write(state, call, _LOST, with_=[lost])
            if not changing:
                await self.lifecycle.append(state, lost)
        except EventIdReused:
            raise StateOutdated from None
        await self.lifecycle.discard(state)

    async def _traced(
        self,
        state: SandboxState,
        sandbox: Sandbox,
        call: PendingCall,
        ask: ToolInput,
        cancelled: asyncio.Event,
    ) -> None:
        with call_span(state, call) as span:
            note_outcome(span, await self._one(state, sandbox, call, ask, cancelled))

    async def _one(
        self,
        state: SandboxState,
        sandbox: Sandbox,
        call: PendingCall,
        ask: ToolInput,
        cancelled: asyncio.Event,
    ) -> CallOutcome:
        started = time.monotonic()
        context = Context(
            build_id=state.build_id,
            call_id=call.asked.call_id,
            timeout_s=call.asked.timeout_s,
            sandbox=sandbox,
            env={**state.environment, **self.lifecycle.network.variables(state)},
            cancelled=cancelled,
            watch=lambda: self.lifecycle.stalls.watch(state),
            fail=self.lifecycle.fail,
            link=lambda port: self.link(sandbox.id, port),
        )
        try:
            if isinstance(ask, PrepareWorkspace):
                outcome = await prepare(context, state, self.lifecycle.network.described(state))
            else:
                outcome = await _run_tool(context, ask, self.probe)
        except NightshiftError:
            raise
        except Exception as error:  # noqa: BLE001 - the agent must not wait for ever for a fault of ours
            _log.error("tool.failed", call_id=context.call_id, tool=call.asked.tool, exc_info=error)
            outcome = CallOutcome(f"the tool itself failed: {type(error).__name__}", "tool")
        duration = int((time.monotonic() - started) * 1000)
        if isinstance(ask, Bash | PrepareWorkspace):
            network = await self.lifecycle.network.used(sandbox)
            note = self.lifecycle.network.note(state, network, outcome.output)
            outcome = replace(outcome, output=outcome.output + note, network=network)
        await self.writer.write(state, call, outcome, duration_ms=duration)
        return outcome


def _parsed(asked: ToolCallRequested, value: dict[str, Any]) -> ToolInput | CallOutcome:
    """Return the validated input of a call, or the outcome that refuses the call."""
    if asked.purpose == "setup":
        return PrepareWorkspace()
    return refused(asked) or parse_input(asked.tool, value)


def _without_sandbox(ask: ToolInput | CallOutcome) -> CallOutcome | None:
    """Return the outcome of a call that needs no sandbox, or None when it needs one."""
    if isinstance(ask, CallOutcome):
        return ask
    return narrate(ask) if isinstance(ask, Narrate) else None


async def _run_tool(ctx: Context, ask: ToolInput, probe: PreviewProbe) -> CallOutcome:
    """Run the tool and return its outcome. `probe` asks previews for their HTTP status.

    Raises only SandboxGone and SandboxUnavailable. Every other failure becomes a failed outcome.
    """
    try:
        match ask:
            case Bash():
                return await bash(ctx, ask)
            case TakeScreenshot():
                return await take_screenshot(ctx, ask)
            case OpenPort():
                return await open_port(ctx, ask, probe)
            case Grep():
                return await search.grep(ctx, ask)
            case _:
                async with ctx.watch():
                    return await _run_quick_tool(ctx, ask)
    except FileRefused as error:
        return files.refused(error)


async def _run_quick_tool(ctx: Context, ask: ToolInput) -> CallOutcome:
    """Run a file tool or glob, which take long only when the sandbox is slow. So the caller reports a slow call with
    `sandbox.stalled`.
    """
    match ask:
        case ReadFile():
            return await files.read_file(ctx, ask)
        case WriteFile() | Document():
            return await files.write_file(ctx, ask)
        case EditFile():
            return await files.edit_file(ctx, ask)
        case Glob():
            return await search.glob(ctx, ask)
        case _:
            raise Fault(f"the gateway has no tool {ask.tool}")
