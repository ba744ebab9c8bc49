"""Runs one build: asks `next_step`, does it, and waits for what others have to say. One task per active build."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID

import structlog
from pydantic import ValidationError

from nightshift.contracts import ids
from nightshift.contracts.events.build import BuildStalled, Usage
from nightshift.eventlog.errors import (
    EventIdReused,
    NightshiftError,
    StreamClosed,
    Transient,
    VersionConflict,
)
from nightshift.orchestrator.domain.commands import (
    AbandonCall,
    Answer,
    AskBudget,
    CallFailed,
    CancelBuild,
    Command,
    Complete,
    Fail,
    ReportStall,
    SendBack,
    Sleep,
    StartCall,
    Step,
    StopOnFault,
    Wake,
)
from nightshift.orchestrator.domain.next_step import (
    Asleep,
    AwaitFact,
    AwaitModel,
    AwaitTime,
    Ended,
    Wait,
    due,
    next_step,
)
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.prompt import RenderedMessages, request_bytes
from nightshift.orchestrator.domain.state import INITIAL, BuildState, RunMode
from nightshift.orchestrator.ports import (
    BuildNumbers,
    BuildRepository,
    CallError,
    CannotFold,
    Model,
    UsageMeter,
)

_log = structlog.get_logger(__name__)

Clock = Callable[[], datetime]

#: For the last word on the way out; between two tries of an append while the log is away.
_FAREWELL_S, _PAUSE_S = 2.0, 0.5
#: Characters that are told of an answer that cannot be taken in.
_DETAIL = 500
#: The log is asked by itself when nothing is heard: after a second, then more and more rarely.
_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=1), timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class RunnerDependencies:
    """What every runner of this process works with."""

    repository: BuildRepository
    model: Model
    numbers: BuildNumbers
    policy: Policy
    clock: Clock


@dataclass(frozen=True, slots=True)
class _Flight:
    """A model call that this process has made. `call_id` is the id of its `model_call.started`."""

    call_id: UUID
    task: asyncio.Task[Answer | CallFailed]
    meter: UsageMeter


class Runner:
    """One build, from where the log says it is until it ends or falls asleep."""

    def __init__(self, build_id: str, dependencies: RunnerDependencies) -> None:
        self.build_id = build_id
        self._dependencies = dependencies
        self._state: BuildState = INITIAL
        self._rendered = RenderedMessages()
        self._news = asyncio.Event()
        self._flight: _Flight | None = None
        self._seen: Usage | None = None  # of a call that we stopped and that is still in flight in the log
        self._cancel: CancelBuild | None = None
        self._patience = _FIRST_WAIT

    def hear(self, version: int) -> None:
        """Something was appended to the build. What it was is read from the log: a message proves nothing."""
        if version > self._state.version:
            self._news.set()

    def cancel(self, command: CancelBuild) -> None:
        """Stop as soon as can be. Ends the run."""
        self._cancel = command
        self._news.set()

    async def run(self) -> None:
        """Returns when the build has ended or sleeps. Raises what the log raises."""
        try:
            self._state = await self._dependencies.repository.load(self.build_id)
            while True:
                if self._cancel is not None and self._state.mode is not RunMode.ENDED:
                    await self._commit(replace(self._cancel, seen=await self._hang_up()))
                    continue
                step = next_step(self._state, self._dependencies.clock(), self._dependencies.policy)
                if isinstance(step, Ended | Asleep):
                    return
                await self._take(step)
        except (asyncio.CancelledError, Exception):
            await self._hand_over()
            raise
        finally:
            await self._hang_up()

    async def report(self, error: Exception) -> None:
        """Append why the run failed: a fault once for each event it failed after, a dependency at most once an hour."""
        now = self._dependencies.clock()
        if isinstance(error, Transient):
            hour = ids.request_cause(BuildStalled.type, f"{self.build_id}/{now:%Y-%m-%dT%H}")
            command = ReportStall("dependency", _one_line(error), hour)
        else:
            after = error.event_id if isinstance(error, CannotFold) else self._state.cause
            first = ids.request_cause(BuildStalled.type, self.build_id)
            command = ReportStall("fault", _one_line(error), after or first)
        try:
            await self._dependencies.repository.commit_at_any_version(self.build_id, command, now)
        except (EventIdReused, StreamClosed):
            return  # appended before, with another detail; or the build has ended
        except NightshiftError as unreported:
            _log.warning("build.stall_not_reported", build_id=self.build_id, error=str(unreported))

    async def _hand_over(self) -> None:
        """Told to go in the middle of a call: what it has cost so far is noted, so that its worst case need not be."""
        if self._flight is None:
            return
        command = AbandonCall(await self._hang_up())
        with suppress(NightshiftError, TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self._dependencies.repository.commit(
                    self.build_id, self._state, command, self._dependencies.clock()
                )

    async def _take(self, step: Step | Wait) -> None:
        match step:
            case AwaitModel():
                await self._hear_model(step)
            case AwaitFact() | AwaitTime():
                await self._listen(step)
            case StartCall():
                if await self._commit(step):
                    await self._launch()
            case Fail():
                await self._commit(replace(step, seen=await self._hang_up()))
            case Complete():
                project = self._state.request.project_id
                number = await self._dependencies.numbers.number(project, self.build_id)
                await self._commit(Complete(number))
            case AskBudget() | Sleep() | Wake() | SendBack():
                await self._commit(step)
            case Asleep() | Ended():
                raise AssertionError("the run ends there")
            case _:
                assert_never(step)

    async def _commit(self, command: Command) -> bool:
        """False when the log was ahead of us: then the state is new, and what to do may be something else."""
        before = self._state.version
        try:
            self._state = await self._insist(command)
        except (VersionConflict, EventIdReused, StreamClosed):
            await self._catch_up()
            if self._state.version == before:
                raise  # nobody else wrote: this would be refused for ever
            return False
        self._patience = _FIRST_WAIT
        return True

    async def _insist(self, command: Command) -> BuildState:
        """An answer that was paid for is not thrown away because the log is away for a while: the same again."""
        while True:
            try:
                return await self._dependencies.repository.commit(
                    self.build_id, self._state, command, self._dependencies.clock()
                )
            except Transient as error:
                _log.warning("the log is away, trying again", error=str(error))
                await asyncio.sleep(_PAUSE_S)

    async def _catch_up(self) -> None:
        self._news.clear()
        before = self._state.version
        self._state = await self._dependencies.repository.catch_up(self.build_id, self._state)
        if self._state.version > before:
            self._patience = _FIRST_WAIT

    async def _listen(self, step: Wait) -> None:
        """Wait until something is heard, the step's time has come, or it is time to ask the log."""
        now = self._dependencies.clock()
        until = due(self._state, step, now, self._patience)
        self._patience = min(self._patience * 2, _LONGEST_WAIT)
        with suppress(TimeoutError):
            async with asyncio.timeout(max((until - now).total_seconds(), 0.0)):
                await self._news.wait()
        if self._news.is_set() or not isinstance(step, AwaitTime):
            await self._catch_up()

    async def _launch(self) -> None:
        """Think. The reservation is in the log, so the request may leave."""
        call = self._state.call
        if call is None:
            return
        meter = UsageMeter()
        try:
            body = request_bytes(self._state, self._dependencies.policy, self._rendered)
        except Exception as error:  # noqa: BLE001 - a call that is started and not made would be abandoned at its worst case
            _log.exception("build.request_not_rendered", build_id=self.build_id)
            await self._commit(StopOnFault(f"the request cannot be rendered: {_one_line(error)}", Usage()))
            return
        task = asyncio.create_task(self._think(body, meter), name=f"model call of {self.build_id}")
        self._flight = _Flight(call.event_id, task, meter)
        self._seen = None

    async def _think(self, body: bytes, meter: UsageMeter) -> Answer | CallFailed:
        try:
            return await self._dependencies.model.answer(body, meter)
        except CallError as error:
            failure = error.failure
            _log.warning(
                "model call failed", kind=failure.kind, status=failure.status, build_id=self.build_id
            )
            return failure
        except Exception as error:  # noqa: BLE001 - the boundary of the adapter: the call may have been billed
            _log.exception("model.adapter_failed", build_id=self.build_id)
            detail = f"the answer cannot be read: {_one_line(error)}"
            return CallFailed("malformed", detail, usage=meter.usage, maybe_billed=meter.under_way)

    async def _hear_model(self, step: AwaitModel) -> None:
        flight, call = self._flight, self._state.call
        if flight is None or call is None or flight.call_id != call.event_id:
            # The call of an owner that is gone, or ours that the log does not know: nobody will answer it.
            await self._hang_up()
            await self._commit(AbandonCall())
            return
        news = asyncio.create_task(self._news.wait())
        now = self._dependencies.clock()
        longest = due(self._state, step, now, _LONGEST_WAIT) - now
        try:
            await asyncio.wait(
                {flight.task, news},
                timeout=max(longest.total_seconds(), 0.0),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            news.cancel()
        if not flight.task.done():
            await self._catch_up()
            return
        outcome = flight.task.result()
        while self._state.call is not None and self._state.call.event_id == flight.call_id:
            if await self._take_in(outcome):
                break
        self._flight = None

    async def _take_in(self, outcome: Answer | CallFailed) -> bool:
        """Append the end of a call, whatever raises: a call left open is made, and paid, again."""
        command: Command = outcome
        instead: Iterator[Command] | None = None
        while True:
            try:
                return await self._commit(command)
            except Exception as error:
                _log.exception(
                    "build.decision_failed", build_id=self.build_id, command=type(command).__name__
                )
                instead = instead or _instead(outcome, error)
                if (following := next(instead, None)) is None:
                    raise
                command = following

    async def _hang_up(self) -> Usage | None:
        """Stop the call in flight, if there is one. What the provider told of its tokens is kept for the bill."""
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.task.cancel()
            await asyncio.wait({flight.task})
            self._seen = flight.meter.usage if flight.meter.under_way else Usage()
        return self._seen


def _instead(outcome: Answer | CallFailed, error: Exception) -> Iterator[Command]:
    """What to append in place of an outcome that raised `error`, the next where the one before raises too.

    An answer that no event can hold is a failed attempt, which is made again. After any other error the build stops.
    """
    detail = f"an answer that cannot be taken in: {_one_line(error)}"
    if isinstance(outcome, Answer) and isinstance(error, ValidationError):
        yield CallFailed("malformed", detail, usage=outcome.usage, maybe_billed=True)
        yield CallFailed("malformed", detail, maybe_billed=True)
    billed = isinstance(outcome, Answer) or outcome.maybe_billed
    yield StopOnFault(detail, outcome.usage or (None if billed else Usage()))
    yield StopOnFault(detail, None if billed else Usage())


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_DETAIL]
