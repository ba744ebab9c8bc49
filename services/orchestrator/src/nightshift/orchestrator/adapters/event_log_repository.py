"""Loads builds from the event log, and appends events to it. Large fields are first stored in the object store."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from nightshift.contracts.events.build import ApprovalResolved, ToolCallAnswered
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import NotFound, VersionConflict
from nightshift.eventlog.large import externalize, materialize
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.port import Appended, EventLog, NewEvent, RecordedEvent, build_stream
from nightshift.orchestrator.domain.commands import Command, ForkBase, RequestCommand
from nightshift.orchestrator.domain.decide import causes, decide
from nightshift.orchestrator.domain.evolve import evolve
from nightshift.orchestrator.domain.forks import ForkPoint
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import INITIAL, BuildState
from nightshift.orchestrator.ports import CannotFold
from nightshift.orchestrator.usecases import attachments


class EventLogBuildRepository:
    """The port BuildRepository over the event log."""

    def __init__(self, log: EventLog, objects: ObjectStore, *, policy: Policy, actor: str) -> None:
        self._log = log
        self._objects = objects
        self._policy = policy
        self._actor = actor

    async def load(self, build_id: str) -> BuildState:
        """Return the build's state, or INITIAL when the build does not exist.

        Raises CannotFold when an event of the build cannot be folded.
        """
        return await self.catch_up(build_id, INITIAL)

    async def catch_up(self, build_id: str, state: BuildState) -> BuildState:
        """Return `state`, continued by the build's events after the version of `state`.

        Raises CannotFold when one of these events cannot be folded.
        """
        events = self._log.read_stream(build_stream(build_id), from_version=state.version + 1)
        async for event in events:
            data = await materialize(event.data, self._objects)
            state = _evolved(state, event if data is event.data else event._replace(data=data))
        return state

    async def attachments(self, state: BuildState) -> tuple[dict[str, Any], ...]:
        """Return the build's attachments, from the object store, as content blocks.

        Raises BadMessage when an attachment is missing or is not of its media type.
        """
        return await attachments.fetch(state.request.attachments, self._objects)

    async def commit(self, build_id: str, state: BuildState, command: Command, now: datetime) -> BuildState:
        """Append the events that `command` leads to after the version of `state`, and return the state after them.

        Raises VersionConflict, EventIdReused or StreamClosed when `state` is not the newest state.
        """
        events = decide(state, command, now, self._policy)
        if not events:
            return state
        new = _new_events(causes(state, command, events), events)
        appended = await self._append(build_id, new, expected_version=state.version)
        if not appended.fresh:
            # Events with the same ids exist. Either this process appended them and lost the answer, or another process
            # did that believes it owns the build. So a caller must not do, after this append, anything that may happen
            # only once, such as a model call.
            raise VersionConflict(f"build {build_id}: this step was taken before")
        for one, version, event_id in zip(new, appended.versions, appended.event_ids, strict=True):
            state = _evolved(
                state,
                RecordedEvent(
                    event_id=event_id,
                    stream_id=appended.stream_id,
                    version=version,
                    data=one.data,
                    correlation_id=build_id,
                    causation_id=one.causation_id,
                    actor=self._actor,
                    traceparent=None,
                    recorded_at=now,
                ),
            )
        return state

    async def commit_at_any_version(self, build_id: str, command: Command, now: datetime) -> None:
        """Append the events of a command that leads to the same events in every state, such as a report.

        No version is expected, so another append at the same time is no conflict. Raises StreamClosed when the build
        has ended.
        """
        events = decide(INITIAL, command, now, self._policy)
        await self._append(
            build_id, _new_events(causes(INITIAL, command, events), events), expected_version=None
        )

    async def has_recorded(self, build_id: str, command: RequestCommand) -> bool:
        """Return whether the log contains the events that this command leads to.

        Finds the first event that the command's id caused, and decides about the command again from the state before
        it. Returns False when this gives another event.
        """
        state = INITIAL
        async for event in self._log.read_stream(build_stream(build_id)):
            data = await materialize(event.data, self._objects)
            if event.causation_id == command.cause:
                return decide(state, command, event.recorded_at, self._policy)[:1] == (data,)
            state = _evolved(state, event if data is event.data else event._replace(data=data))
        return False

    async def fork_base(self, build_id: str, turn: int) -> ForkBase:
        """Return the build as it was at the end of turn `turn`, so that a fork or a rewind can continue from there.

        Raises NotFound when there is no such build, and BadMessage when nothing can continue from this turn.
        """
        state, point = INITIAL, ForkPoint(build_id, turn)
        async for event in self._log.read_stream(build_stream(build_id)):
            data = await materialize(event.data, self._objects)
            state = _evolved(state, event if data is event.data else event._replace(data=data))
            point.read(event, state)
        if state.accepted is None:
            raise NotFound(f"there is no build {build_id} to continue (`base_build_id`)")
        return point.base()

    async def decision_about(
        self, build_id: str, call_id: str
    ) -> tuple[ApprovalResolved | None, ToolCallAnswered | None]:
        """Return a tool call's `approval.resolved` and `tool_call.answered` events, each None when the log does not
        have it.

        A call that ran in the sandbox has an event of another type as its result, which is not returned.
        """
        approval, result = None, None
        async for event in self._log.read_stream(build_stream(build_id)):
            if isinstance(event.data, ApprovalResolved | ToolCallAnswered) and event.data.call_id == call_id:
                data = await materialize(event.data, self._objects)
                if isinstance(data, ApprovalResolved):
                    approval = data
                elif isinstance(data, ToolCallAnswered):
                    result = data
        return approval, result

    async def exists(self, build_id: str) -> bool:
        """Return whether the log has an event of this build."""
        async for _ in self._log.read_stream(build_stream(build_id), limit=1):
            return True
        return False

    async def _append(
        self, build_id: str, events: Sequence[NewEvent], *, expected_version: int | None
    ) -> Appended:
        stored = [await self._externalized(one) for one in events]
        return await self._log.append(build_stream(build_id), stored, expected_version=expected_version)

    async def _externalized(self, event: NewEvent) -> NewEvent:
        data = await externalize(event.data, self._objects)
        return event if data is event.data else replace(event, data=data)


def _evolved(state: BuildState, event: RecordedEvent) -> BuildState:
    try:
        return evolve(state, event)
    except Exception as error:
        raise CannotFold(event, error) from error


def _new_events(causes: Sequence[UUID], events: Sequence[Event]) -> tuple[NewEvent, ...]:
    """Return the decided events, each with its cause, in the form that the log appends.

    Events with the same type and cause get different numbers, so their ids differ.
    """
    seen: Counter[tuple[UUID, str]] = Counter()
    new: list[NewEvent] = []
    for cause, event in zip(causes, events, strict=True):
        new.append(NewEvent(event, cause, seen[cause, event.type]))
        seen[cause, event.type] += 1
    return tuple(new)
