"""The invariants of replay: a fold of the log gives the states of the runs, and today's code the recorded decisions."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from tests.memory.deployment.deployment import POLICY

from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.adapters.event_log_repository import EventLogBuildRepository
from nightshift.orchestrator.domain.commands import Command
from nightshift.orchestrator.domain.state import BuildState
from nightshift.orchestrator.usecases.replay import states, verify


class ObservedRepository(EventLogBuildRepository):
    """Notes every state that a run of a build works with."""

    live: dict[tuple[str, int], BuildState]

    async def catch_up(self, build_id: str, state: BuildState) -> BuildState:
        return self._noted(build_id, await super().catch_up(build_id, state))

    async def commit(self, build_id: str, state: BuildState, command: Command, now: datetime) -> BuildState:
        return self._noted(build_id, await super().commit(build_id, state, command, now))

    def _noted(self, build_id: str, state: BuildState) -> BuildState:
        self.live[build_id, state.version] = state
        return state


def violations(
    build_id: str, events: Sequence[RecordedEvent], live: Mapping[tuple[str, int], BuildState]
) -> Iterable[str]:
    """Folds every prefix of a build and makes its decisions again."""
    for state in states(events):
        if state != live.get((build_id, state.version), state):
            yield f"{build_id}: the fold of {state.version} events is not the state of the run at that version"
    found = verify(events, policy=POLICY)
    if found.difference is not None:
        yield f"{build_id}: today's code decides something else: {found.difference}"
