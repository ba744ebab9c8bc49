"""Finds the snapshot that has a build's files as they were at a version of its stream. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from nightshift.contracts.events.build import BuildForked, ToolCallRequested
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.contracts.tools import TOOLS
from nightshift.eventlog.port import RecordedEvent


@dataclass(frozen=True, slots=True)
class ChosenSnapshot:
    """A snapshot for a requested version.

    `exact`: its files are those of that version, because no tool call between the two may have written.
    """

    key: str
    at_version: int
    exact: bool


def writes(fact: ToolCallRequested) -> bool:
    """Return whether this call may change the workspace.

    A call of an unknown tool is refused, so it changes nothing.
    """
    model = TOOLS.get(fact.tool)
    return model is not None and model.effect != "read"


def snapshot_at(events: Sequence[RecordedEvent], version: int) -> ChosenSnapshot | None:
    """Return the snapshot with the files at this version. If there is none, returns the newest one before it.

    Returns None when there is no earlier one either. `events` are the events of the build, from version 1.
    """
    found: list[tuple[str, int, bool]] = []
    for event in events:
        fact = event.data
        if isinstance(fact, SnapshotSaved):
            found.append((fact.key, fact.at_version, fact.consistency in {None, "exact"}))
        elif isinstance(fact, BuildForked) and fact.snapshot_key is not None:
            found.append((fact.snapshot_key, event.version, True))
    writing = [
        event.version for event in events if isinstance(event.data, ToolCallRequested) and writes(event.data)
    ]

    def between(one: int, other: int) -> bool:
        return any(min(one, other) < at <= max(one, other) for at in writing)

    before = max((one for one in found if one[1] <= version), key=lambda one: one[1], default=None)
    after = min((one for one in found if one[1] > version), key=lambda one: one[1], default=None)
    for one in (before, after):
        if one is not None and one[2] and not between(one[1], version):
            return ChosenSnapshot(one[0], one[1], exact=True)
    return None if before is None else ChosenSnapshot(before[0], before[1], exact=False)
