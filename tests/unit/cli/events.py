"""A build's events as the log records them, a second apart."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from nightshift.cli.build_status import BuildStatus, evolve
from nightshift.contracts.events.build import BuildAccepted
from nightshift.contracts.model import Event
from nightshift.eventlog.port import RecordedEvent

START = datetime(2026, 3, 1, 22, tzinfo=UTC)
ACCEPTED = BuildAccepted(
    build_id="b",
    project_id="p",
    account_id="ada",
    idea_brief="A red\u202e shop",
    model="scripted-1",
    turn_limit=9,
    tool_call_limit=9,
)


def recorded(facts: Iterable[Event], *, after: int = 0) -> list[RecordedEvent]:
    """These facts as the events of build `b` that follow version `after`."""
    return [
        RecordedEvent(
            *(UUID(int=version), "build-b", version, fact, "b", UUID(int=9), "test", None),
            START + timedelta(seconds=version - 1),
        )
        for version, fact in enumerate(facts, start=after + 1)
    ]


def status_after(*facts: Event) -> BuildStatus:
    """The status of build `b` after these facts."""
    status = BuildStatus("b")
    for event in recorded(facts):
        status = evolve(status, event)
    return status
