"""Appends the one `tool_call.completed` of a call. Masks and shortens the output.

Output that it shortens is stored whole in the object store.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from nightshift.contracts.events.sandbox import PreviewOpened, ToolCallCompleted
from nightshift.eventlog.errors import EventIdReused, Transient
from nightshift.eventlog.large import externalize
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.port import EventLog, NewEvent, build_stream
from nightshift.sandbox_gateway.domain.call_outcome import CallOutcome
from nightshift.sandbox_gateway.domain.sandbox_state import PendingCall, SandboxState
from nightshift.sandbox_gateway.domain.text import LIMIT, Mask, cut, printable
from nightshift.sandbox_gateway.usecases.call_span import tool_name
from nightshift.sandbox_gateway.usecases.failpoints import FailPoints

_log = structlog.get_logger(__name__)
_CALLS = Counter("nightshift_tool_calls", "Tool calls with a result.", ["tool", "outcome"])


@dataclass(frozen=True, slots=True)
class ResultWriter:
    """Writes the results of tool calls. `secrets` returns, for an account id, each secret's name → values.

    `limit` is the most characters and bytes of an output in the log.
    """

    log: EventLog
    objects: ObjectStore
    secrets: Callable[[str], Mapping[str, Sequence[str]]]
    fail: FailPoints
    limit: int = LIMIT

    async def write(
        self,
        state: SandboxState,
        call: PendingCall,
        outcome: CallOutcome,
        *,
        duration_ms: int = 0,
        with_: Iterable[NewEvent] = (),
    ) -> None:
        """Append the result of a call and the events in `with_`, in one transaction.

        Does nothing when the call has a result already.
        """
        # All secrets of the account are masked, not only those of the build, because none belongs into a log.
        text = Mask(self.secrets(state.account_id))(printable(outcome.output))
        where = None
        if len(text) > self.limit or len(text.encode()) > self.limit:
            where = await self._keep_whole(state, call, text)
        kept = " and ".join(place for place in (outcome.whole_in, where) if place)
        shown = cut(text, limit=self.limit, where=kept or None)
        completed = ToolCallCompleted(
            call_id=call.asked.call_id,
            is_error=outcome.is_error,
            error_kind=outcome.error_kind,
            output=shown.text,
            blocks=outcome.blocks,
            exit_code=outcome.exit_code,
            duration_ms=duration_ms,
            truncated=shown.truncated,
            network=outcome.network or None,
        )
        # Moves an image to the object store, because it does not fit into an event.
        completed = await externalize(completed, self.objects)
        events = [*with_, NewEvent(completed, call.event_id)]
        if outcome.preview is not None and state.sandbox is not None:
            port, url = outcome.preview
            opened = PreviewOpened(sandbox_id=state.sandbox.sandbox_id, port=port, url=url)
            events.insert(0, NewEvent(opened, call.event_id))
        self.fail.reach("before_append")
        try:
            if (await self.log.append(build_stream(state.build_id), events)).fresh:
                _CALLS.labels(tool_name(call), outcome.error_kind or "ok").inc()
        except EventIdReused:
            _log.info("tool_call.answered_before", build_id=state.build_id, call_id=call.asked.call_id)
        self.fail.reach("after_append")

    async def _keep_whole(self, state: SandboxState, call: PendingCall, text: str) -> str | None:
        """Store the whole output in the object store. Returns its key, or None after an error."""
        name = f"{call.asked.turn}-{call.asked.index}.txt"
        key = f"projects/{state.project_id}/outputs/{state.build_id}/{name}"
        try:
            await self.objects.put(key, text.encode())
        except Transient as error:
            _log.warning("output.not_kept", build_id=state.build_id, key=key, error=str(error))
            return None
        return key
