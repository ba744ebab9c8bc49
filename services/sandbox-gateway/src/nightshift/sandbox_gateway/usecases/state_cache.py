"""The folded states of builds: kept in memory, and read on from where they were."""

from collections import OrderedDict

from nightshift.eventlog.port import EventLog, build_stream
from nightshift.sandbox_gateway.domain.sandbox_state import SandboxState, evolve

_KEPT = 2000


class StateCache:
    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._states: OrderedDict[str, SandboxState] = OrderedDict()

    async def get(self, build_id: str) -> SandboxState:
        """The state of the build as the log has it now. Raises Unavailable when the log does not answer."""
        state = self._states.get(build_id) or SandboxState(build_id)
        async for event in self._log.read_stream(build_stream(build_id), from_version=state.version + 1):
            state = evolve(state, event)
        kept = self._states.get(build_id)
        if kept is None or kept.version <= state.version:
            self._states[build_id] = state
            self._states.move_to_end(build_id)
        while len(self._states) > _KEPT:
            self._states.popitem(last=False)
        return state
