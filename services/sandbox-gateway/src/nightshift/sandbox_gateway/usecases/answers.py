"""From an outcome to the one `tool_call.completed` of a call: masked, cut, the whole kept in the object store."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import structlog

from nightshift.contracts.events.sandbox import PreviewOpened, ToolCallCompleted
from nightshift.eventlog.errors import EventIdReused, Transient
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.port import EventLog, NewEvent, build_stream
from nightshift.sandbox_gateway.domain.outcome import Outcome
from nightshift.sandbox_gateway.domain.text import LIMIT, Mask, cut, printable
from nightshift.sandbox_gateway.domain.view import PendingCall, View
from nightshift.sandbox_gateway.failpoints import FailPoints

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answers:
    """`secrets`: name → value of every secret that builds may ask for."""

    log: EventLog
    objects: ObjectStore
    secrets: Mapping[str, str]
    fail: FailPoints
    limit: int = LIMIT

    def env(self, view: View) -> dict[str, str]:
        """The build's secrets, for the environment of its commands."""
        return {name: self.secrets[name] for name in view.secrets if name in self.secrets}

    async def give(
        self,
        view: View,
        call: PendingCall,
        outcome: Outcome,
        *,
        duration_ms: int,
        with_: Iterable[NewEvent] = (),
    ) -> None:
        """Append the result, together with the facts that belong to it. An answer that is there already stays."""
        # Every secret of the installation, not only the build's: none of them has any business in a log.
        text = Mask(self.secrets)(printable(outcome.output))
        where = None
        if len(text) > self.limit or len(text.encode()) > self.limit:
            where = await self._keep(view, call, text)
        shown = cut(text, limit=self.limit, where=where)
        completed = ToolCallCompleted(
            call_id=call.asked.call_id,
            is_error=outcome.is_error,
            error_kind=outcome.error_kind,
            output=shown.text,
            exit_code=outcome.exit_code,
            duration_ms=duration_ms,
            truncated=shown.truncated,
        )
        events = [*with_, NewEvent(completed, call.event_id)]
        if outcome.preview is not None and view.box is not None:
            port, url = outcome.preview
            opened = PreviewOpened(sandbox_id=view.box.sandbox_id, port=port, url=url)
            events.insert(0, NewEvent(opened, call.event_id))
        self.fail.reach("before_append")
        try:
            await self.log.append(build_stream(view.build_id), events)
        except EventIdReused:
            _log.info("call was answered before", build_id=view.build_id, call_id=call.asked.call_id)
        self.fail.reach("after_append")

    async def _keep(self, view: View, call: PendingCall, text: str) -> str | None:
        """Put the whole output under the project, where an erasure finds it. Not having it is no reason to fail."""
        place = f"{call.asked.turn}-{call.asked.index}.txt"
        key = f"projects/{view.project_id}/outputs/{view.build_id}/{place}"
        try:
            await self.objects.put(key, text.encode())
        except Transient as error:
            _log.warning("whole output not kept", build_id=view.build_id, key=key, error=str(error))
            return None
        return key
