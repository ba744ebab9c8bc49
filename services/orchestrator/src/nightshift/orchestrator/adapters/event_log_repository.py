"""One build's stream: folded from the log, and appended to at the version that was folded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from nightshift.contracts.model import Event
from nightshift.eventlog.errors import Fault, VersionConflict
from nightshift.eventlog.large import externalize, materialize
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.port import Appended, EventLog, NewEvent, RecordedEvent, build_stream
from nightshift.orchestrator.domain.commands import Command
from nightshift.orchestrator.domain.decide import causes, decide
from nightshift.orchestrator.domain.evolve import evolve
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import INITIAL, BuildState


class CannotFold(Fault):
    """`evolve` raised for an event of the log. `event_id` names the event."""

    def __init__(self, event: RecordedEvent, error: Exception) -> None:
        super().__init__(f"{event.data.type} at version {event.version} of {event.stream_id}: {error!r}")
        self.event_id = event.event_id


class Journal:
    """Reads and writes builds. What is large goes to the object store before it is appended, and is fetched to fold."""

    def __init__(self, log: EventLog, objects: ObjectStore, *, policy: Policy, actor: str) -> None:
        self._log = log
        self._objects = objects
        self._policy = policy
        self._actor = actor

    async def fold(self, build_id: str) -> BuildState:
        """The build as the log tells it; INITIAL when nobody wrote it."""
        return await self.catch_up(build_id, INITIAL)

    async def catch_up(self, build_id: str, state: BuildState) -> BuildState:
        """The state with what was appended since."""
        events = self._log.read_stream(build_stream(build_id), from_version=state.version + 1)
        async for event in events:
            data = await materialize(event.data, self._objects)
            state = _evolved(state, event if data is event.data else event._replace(data=data))
        return state

    async def commit(self, build_id: str, state: BuildState, command: Command, now: datetime) -> BuildState:
        """Decide and append at the state's version; the state after it.

        Raises VersionConflict, EventIdReused or StreamClosed when the state is not what the log holds: catch up and
        decide again.
        """
        events = decide(state, command, now, self._policy)
        if not events:
            return state
        new = _new(causes(state, command, events), events)
        appended = await self._append(build_id, new, expected_version=state.version)
        if not appended.fresh:
            # Decided before with the same ids: by us, with the answer lost, or by an owner who is slow and not dead.
            # Nobody can tell which, so nothing may follow from it that must happen once, such as a model call.
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

    async def note(self, build_id: str, command: Command, now: datetime) -> None:
        """Append a decision that is the same in every state, such as a person's message. Raises StreamClosed."""
        events = decide(INITIAL, command, now, self._policy)
        await self._append(build_id, _new(causes(INITIAL, command, events), events), expected_version=None)

    async def exists(self, build_id: str) -> bool:
        """Whether anything was written of this build."""
        async for _ in self._log.read_stream(build_stream(build_id), limit=1):
            return True
        return False

    async def _append(
        self, build_id: str, events: Sequence[NewEvent], *, expected_version: int | None
    ) -> Appended:
        stored = [await self._stored(one) for one in events]
        return await self._log.append(build_stream(build_id), stored, expected_version=expected_version)

    async def _stored(self, event: NewEvent) -> NewEvent:
        data = await externalize(event.data, self._objects)
        return event if data is event.data else replace(event, data=data)


def _evolved(state: BuildState, event: RecordedEvent) -> BuildState:
    try:
        return evolve(state, event)
    except Exception as error:
        raise CannotFold(event, error) from error


def _new(causes: Sequence[UUID], events: Sequence[Event]) -> tuple[NewEvent, ...]:
    """Events of one type and cause are told apart by their place among themselves."""
    seen: Counter[tuple[UUID, str]] = Counter()
    new: list[NewEvent] = []
    for cause, event in zip(causes, events, strict=True):
        new.append(NewEvent(event, cause, seen[cause, event.type]))
        seen[cause, event.type] += 1
    return tuple(new)
