"""Runs one build: asks `next_step`, does the step, and waits for facts of other services."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar, assert_never

import structlog

from nightshift.contracts import ids
from nightshift.contracts.events.build import BuildStalled, Usage
from nightshift.eventlog.backoff import Backoff
from nightshift.eventlog.errors import (
    EventIdReused,
    NightshiftError,
    StreamClosed,
    Transient,
    VersionConflict,
)
from nightshift.orchestrator.domain import context, side_calls
from nightshift.orchestrator.domain.commands import (
    AbandonCall,
    Answer,
    AnswerQuestion,
    AskBudget,
    Begin,
    CallFailed,
    CancelBuild,
    Command,
    Complete,
    Escalate,
    Fail,
    GiveApproval,
    GiveResult,
    ReportProvider,
    ReportStall,
    ResumeFromProvider,
    SendBack,
    Sleep,
    StartCall,
    StartWaiting,
    Step,
    StopCall,
    StopOnFault,
    WaitForProvider,
    Wake,
)
from nightshift.orchestrator.domain.model_choice import model_of
from nightshift.orchestrator.domain.next_step import (
    Asleep,
    AwaitFact,
    AwaitModel,
    AwaitProvider,
    AwaitTime,
    CountPrompt,
    Ended,
    Wait,
    Waiting,
    due,
    next_step,
)
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.prompt import RenderedMessages, count_bytes, request_bytes
from nightshift.orchestrator.domain.provider_waits import REFUSED_KEY
from nightshift.orchestrator.domain.state import INITIAL, BuildState, Conversation, RunMode
from nightshift.orchestrator.ports import BuildNumbers, BuildRepository, CannotFold, Model
from nightshift.orchestrator.usecases.model_call import ModelCall, count_tokens, one_line, replacements
from nightshift.orchestrator.usecases.provider_access import ProviderAccess
from nightshift.orchestrator.usecases.provider_reports import blocked, recovered

_log = structlog.get_logger(__name__)

Clock = Callable[[], datetime]
T = TypeVar("T")

_LAST_APPEND_S = 2.0  # for the append of a run that is being stopped
#: Seconds between two attempts at an append, and the number of attempts after which `build.stalled` is appended.
_RETRY_S, _REPORTED_TRY = 0.5, 8
#: Seconds between two looks at a call that tries a refused key. The other builds wait for the answer's first byte.
_PROBE_POLL_S = 0.5
#: Without a notification, the log is read after these waits.
_POLL = Backoff(1.0, 15.0)


@dataclass(frozen=True, slots=True)
class RunnerDependencies:
    """The objects that all runners of this process share."""

    repository: BuildRepository
    model: Model
    numbers: BuildNumbers
    policy: Policy
    clock: Clock
    provider: ProviderAccess


class Runner:
    """The run of one build, until the build ends, sleeps or waits. A run can begin with any state in the log."""

    def __init__(self, build_id: str, dependencies: RunnerDependencies) -> None:
        self.build_id = build_id
        self._repository = dependencies.repository
        self._model = dependencies.model
        self._numbers = dependencies.numbers
        self._policy = dependencies.policy
        self._now = dependencies.clock
        self._provider = dependencies.provider
        self._state: BuildState = INITIAL
        self._rendered = RenderedMessages()
        self._notified = asyncio.Event()
        self._call: ModelCall | None = None
        self._called_at = self._now()  # when the last model call of this run started
        self._stopped_usage: Usage | None = None  # the usage of a stopped call that is still open in the log
        self._counted: tuple[Conversation, int] | None = None
        self._cancel: CancelBuild | None = None
        self._draining = False
        self._quiet_polls = 0

    def notify(self, version: int) -> None:
        """Let the run read the log soon, unless it has already read the event at `version`."""
        if version > self._state.version:
            self._notified.set()

    def cancel(self, command: CancelBuild) -> None:
        """Let the run append this cancellation as soon as possible, and then end."""
        self._cancel = command
        self._notified.set()

    def drain(self) -> None:
        """End the run as soon as no model call of this process is in flight."""
        self._draining = True
        self._notified.set()

    async def run(self) -> None:
        """Run the build until it has ended, sleeps or waits, or until the run is drained.

        Errors of the repository and of the decisions end the run.
        """
        try:
            self._state = await self._repository.load(self.build_id)
            if self._state.mode is not RunMode.ENDED and self._state.accepted is not None:
                self._rendered = RenderedMessages(await self._repository.attachments(self._state))
            while True:
                if self._cancel is not None and self._state.mode is not RunMode.ENDED:
                    await self._commit(replace(self._cancel, seen=await self._stop_call()))
                    continue
                if self._draining and self._call is None:
                    return
                step = next_step(self._state, self._now(), self._policy, self._counted_tokens())
                if isinstance(step, Ended | Asleep | Waiting):
                    return
                if isinstance(step, AwaitProvider) and not self._provider.may_call(
                    self.build_id, self._next_model()
                ):
                    return
                await self._execute(step)
        except (asyncio.CancelledError, Exception):
            await self._abandon_call()
            raise
        finally:
            await self._stop_call()

    async def report(self, error: Exception) -> None:
        """Append `build.stalled` for this error. Errors of that append are only logged.

        A fault is reported once for each event that it follows, and an unavailable server at most once an hour.
        """
        now = self._now()
        if isinstance(error, Transient):
            hour = ids.request_cause(BuildStalled.type, f"{self.build_id}/{now:%Y-%m-%dT%H}")
            command = ReportStall("dependency", one_line(error), hour)
        else:
            after = error.event_id if isinstance(error, CannotFold) else self._state.cause
            first = ids.request_cause(BuildStalled.type, self.build_id)
            command = ReportStall("fault", one_line(error), after or first)
        try:
            await self._repository.commit_at_any_version(self.build_id, command, now)
        except (EventIdReused, StreamClosed):
            return  # it was reported before, or the build has ended
        except NightshiftError as unreported:
            _log.warning("build.stall_not_reported", build_id=self.build_id, error=str(unreported))

    async def _abandon_call(self) -> None:
        """End the open call at the cost that it has had so far. Otherwise the next owner counts its worst case."""
        if self._call is None:
            return
        command = AbandonCall(await self._stop_call())
        with suppress(NightshiftError, TimeoutError):
            async with asyncio.timeout(_LAST_APPEND_S):
                await self._repository.commit(self.build_id, self._state, command, self._now())

    async def _execute(self, step: Step | Wait) -> None:
        match step:
            case AwaitModel():
                await self._await_model(step)
            case AwaitFact() | AwaitTime():
                await self._wait(step)
            case AwaitProvider():
                await self._commit(ResumeFromProvider())
            case CountPrompt():
                await self._count_prompt()
            case StartCall():
                await self._start_call_in_turn(step)
            case Fail() | StopCall():
                await self._commit(replace(step, seen=await self._stop_call()))
            case Complete():
                number = await self._numbers.number(self._state.request.project_id, self.build_id)
                await self._commit(Complete(number))
            case Begin() | AskBudget() | Sleep() | Wake() | SendBack() | StartWaiting() | Escalate():
                await self._commit(step)
            case AnswerQuestion() | GiveApproval() | GiveResult():
                await self._commit(step)
            case Asleep() | Waiting() | Ended():
                raise AssertionError("the run ends before it executes these")
            case _:
                assert_never(step)

    async def _commit(self, command: Command) -> bool:
        """Append what `command` leads to. When another writer appended first, reload the state and return False."""
        before = self._state.version
        try:
            self._state = await self._when_available(
                lambda: self._repository.commit(self.build_id, self._state, command, self._now())
            )
        except (VersionConflict, EventIdReused, StreamClosed):
            await self._when_available(self._catch_up)
            if self._state.version == before:
                raise  # there was no other writer, so the log would refuse this for ever
            return False
        self._quiet_polls = 0
        return True

    async def _when_available(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `work`. Retries it while a server is unavailable: a paid answer must not be lost."""
        tries = 0
        while True:
            try:
                return await work()
            except Transient as error:
                tries += 1
                _log.warning("build.log_unavailable", build_id=self.build_id, tries=tries, error=str(error))
                if tries == _REPORTED_TRY:
                    await self.report(error)
                await asyncio.sleep(_RETRY_S)

    async def _catch_up(self) -> None:
        self._notified.clear()
        before = self._state.version
        self._state = await self._repository.catch_up(self.build_id, self._state)
        if self._state.version > before:
            self._quiet_polls = 0

    async def _wait(self, step: Wait) -> None:
        """Wait for a notification, for the time in the step, or until the next poll of the log."""
        now = self._now()
        self._quiet_polls += 1
        poll = timedelta(seconds=_POLL.delay(self._quiet_polls, jitter=1.0))
        until = due(self._state, step, now, poll)
        with suppress(TimeoutError):
            async with asyncio.timeout(max((until - now).total_seconds(), 0.0)):
                await self._notified.wait()
        if self._notified.is_set() or not isinstance(step, AwaitTime):
            await self._catch_up()

    async def _start_call_in_turn(self, step: StartCall) -> None:
        """Start the call when the provider may be called. While the provider refuses the key, begin to wait instead."""
        model = model_of(self._state.request, step.role)
        refused = self._provider.refused_for(model)
        if refused is not None and not self._provider.may_call(self.build_id, model):
            await self._commit(WaitForProvider(refused.in_words()))
            return
        now = self._now()
        if (turn := await self._provider.turn(now)) > now:
            await self._wait(AwaitTime(turn))
        elif await self._commit(step):
            self._called_at = now
            await self._start_call()

    async def _count_prompt(self) -> None:
        """Keep the provider's count of the next request's tokens. Without a count, the state's estimate is used."""
        body = count_bytes(self._state, self._policy, self._rendered)
        tokens = await count_tokens(self._model, body, build_id=self.build_id)
        known = context.size(self._state, self._policy) if tokens is None else tokens
        self._counted = (self._state.conversation, known)

    def _counted_tokens(self) -> int | None:
        """Return the count of the next request's tokens, or None when the conversation has changed since the count."""
        if self._counted is None or self._counted[0] is not self._state.conversation:
            return None
        return self._counted[1]

    async def _start_call(self) -> None:
        """Send the request of the open call. The log already has the event of the call's start."""
        call = self._state.call
        if call is None:
            return
        try:
            body = (
                request_bytes(self._state, self._policy, self._rendered)
                if call.role == "builder"
                else side_calls.request_bytes(self._state, self._policy, call.role)
            )
        except Exception as error:  # noqa: BLE001 - else the call, never made, would be charged at its worst case
            _log.exception("build.request_not_rendered", build_id=self.build_id)
            await self._commit(StopOnFault(f"the request cannot be rendered: {one_line(error)}", Usage()))
            return
        self._call = ModelCall(call.event_id, self._model, body, build_id=self.build_id)
        self._stopped_usage = None

    async def _await_model(self, step: AwaitModel) -> None:
        ours, open_call = self._call, self._state.call
        if ours is None or open_call is None or ours.call_id != open_call.event_id:
            # No task of this process waits for the open call: its owner died, or the call was stopped.
            await self._stop_call()
            await self._commit(AbandonCall())
            return
        notified = asyncio.create_task(self._notified.wait())
        now = self._now()
        poll = due(self._state, step, now, timedelta(seconds=_POLL.cap_s)) - now
        silence = ours.silence_left()
        longest = poll.total_seconds() if silence is None else min(poll.total_seconds(), silence)
        if self._provider.is_probe(self.build_id):
            longest = min(longest, _PROBE_POLL_S)
        try:
            await asyncio.wait(
                {ours.task, notified},
                timeout=max(longest, 0.0),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            notified.cancel()
        if not ours.task.done():
            if ours.has_begun and self._provider.is_probe(self.build_id):
                await self._note_begun(open_call.model)
            if ours.silence_left() == 0.0:
                await self.report(ours.report_silence())
            await self._catch_up()
            return
        outcome = await self._provider.note(
            ours.task.result(),
            ours.meter,
            model=open_call.model,
            started_at=self._called_at,
            now=self._now(),
        )
        if isinstance(outcome, Answer):
            await self._note_begun(open_call.model)
        while self._state.call is not None and self._state.call.event_id == ours.call_id:
            if await self._append_outcome(outcome):
                break
        self._call = None
        if isinstance(outcome, CallFailed) and outcome.kind in REFUSED_KEY:
            refused = self._provider.refused_for(open_call.model)
            if refused is not None:
                await self._report_provider(blocked(self._provider.key_id, refused))

    async def _note_begun(self, model: str) -> None:
        """Let builds that wait for the provider continue, because it begins to answer a call of this model."""
        over = self._provider.ended_by(self.build_id, model, self._called_at)
        reported = [one for one in over if await self._report_provider(recovered(self._provider.key_id, one))]
        await self._provider.note_over(reported)

    async def _report_provider(self, command: ReportProvider) -> bool:
        """Append this report about the provider, once for all builds. Returns False when the log does not have it."""
        try:
            await self._repository.commit_at_any_version(self.build_id, command, self._now())
        except EventIdReused:
            return True  # another build has reported the incident
        except NightshiftError as error:  # also when this build has ended: the next one reports the incident
            _log.warning("provider.not_reported", build_id=self.build_id, error=str(error))
            return False
        return True

    def _next_model(self) -> str:
        """Return the model of this build's next call."""
        return model_of(self._state.request, side_calls.next_role(self._state, self._policy))

    async def _append_outcome(self, outcome: Answer | CallFailed) -> bool:
        """Append the outcome of a call, or a replacement after an error, because an open call would be paid again."""
        command: Command = outcome
        instead: Iterator[Command] | None = None
        while True:
            try:
                return await self._commit(command)
            except Exception as error:
                name = type(command).__name__
                _log.exception("build.decision_failed", build_id=self.build_id, command=name)
                instead = instead or replacements(outcome, error)
                if (following := next(instead, None)) is None:
                    raise
                command = following

    async def _stop_call(self) -> Usage | None:
        """Stop this process's model call, if there is one. Returns the usage of the last stopped call, if known."""
        call, self._call = self._call, None
        if call is not None:
            self._stopped_usage = await call.stop()
        return self._stopped_usage
