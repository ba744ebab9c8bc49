"""Writes events as lines of JSON, like `nightshift log --json`, and reads such lines."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from nightshift.contracts.canonical import loads
from nightshift.contracts.errors import ContractError
from nightshift.contracts.registry import encode, validate
from nightshift.eventlog.errors import NotFound, Refused
from nightshift.eventlog.port import RecordedEvent


def event_json(event: RecordedEvent) -> dict[str, Any]:
    """Returns an event in the form of `--json`: its envelope, and its data as in the log."""
    return {
        "event_id": str(event.event_id),
        "stream_id": event.stream_id,
        "version": event.version,
        "type": event.data.type,
        "schema_version": event.data.version,
        "recorded_at": event.recorded_at.isoformat(),
        "actor": event.actor,
        "correlation_id": event.correlation_id,
        "causation_id": str(event.causation_id),
        "data": loads(encode(event.data)),
    }


def read_lines(lines: Iterable[str], name: str) -> list[RecordedEvent]:
    """Returns the events in lines of JSON. All must belong to one build. Lines without a version are skipped.

    Raises Refused for a line that is not an event, an event of another build, or a gap or repetition in the versions;
    the error names the line. Raises NotFound when there is no event. `name` names the source in errors.
    """
    events: list[RecordedEvent] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            given = loads(line)
            if not isinstance(given, dict) or "version" not in given:
                continue
            event = _event(given)
        except (ContractError, KeyError, ValueError, TypeError) as error:
            why = str(error) if isinstance(error, ContractError) else f"{type(error).__name__}: {error}"
            raise Refused(f"{name}, line {number}: not an event: {why}") from error
        _check_order(events, event, f"{name}, line {number}")
        events.append(event)
    if not events:
        raise NotFound(f"{name} holds no event")
    return events


def _event(given: dict[str, Any]) -> RecordedEvent:
    return RecordedEvent(
        UUID(given["event_id"]),
        str(given["stream_id"]),
        int(given["version"]),
        validate(given["type"], int(given["schema_version"]), given["data"]),
        str(given["correlation_id"]),
        UUID(given["causation_id"]),
        str(given["actor"]),
        given.get("traceparent"),
        datetime.fromisoformat(given["recorded_at"]),
    )


def _check_order(events: list[RecordedEvent], event: RecordedEvent, where: str) -> None:
    expected = len(events) + 1
    if events and event.stream_id != events[0].stream_id:
        raise Refused(f"{where}: an event of {event.stream_id} among those of {events[0].stream_id}")
    if event.version != expected:
        what = "a repeated version" if event.version < expected else "a gap"
        raise Refused(f"{where}: {what}: version {event.version} where {expected} must be")
