"""Finds the version of a build's log that the option `--at` means: a turn, a version or a time. Pure."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import cyclopts

from nightshift.cli.errors import WrongUsage
from nightshift.contracts.events.build import CheckpointSaved, ModelCallStarted
from nightshift.eventlog.errors import NotFound
from nightshift.eventlog.port import RecordedEvent

At = Annotated[
    str,
    cyclopts.Parameter(help="turn:7, a version such as 212, or a time such as 2026-11-27T03:00:00+01:00."),
]

_TURN = re.compile(r"turn:([0-9]{1,9})")
_VERSION = re.compile(r"[0-9]{1,18}")


def version_at(events: Sequence[RecordedEvent], at: str) -> int:
    """Returns the version that `at` means in the events of one build. `events` begin with version 1.

    - `turn:N`: the checkpoint of turn N, or the last event of a turn without one. `turn:0`: the last event before the
      first model call.
    - a number: that version.
    - a time: the last event recorded by then. A time without a zone is in this machine's zone.

    Raises WrongUsage for any other text, and NotFound when the build has no such moment.
    """
    newest = events[-1].version
    if turn := _TURN.fullmatch(at):
        return _end_of_turn(events, int(turn[1]))
    if _VERSION.fullmatch(at):
        if not 1 <= int(at) <= newest:
            raise NotFound(f"there is no version {at}", hint=f"the versions are 1 to {newest}")
        return int(at)
    try:
        time = datetime.fromisoformat(at).astimezone()
    except (ValueError, OverflowError):
        raise WrongUsage(
            f"{at[:64]!r} is no moment of a build",
            hint="give turn:7, a version such as 212, or a time such as 2026-11-27T03:00:00",
        ) from None
    found = [event.version for event in events if event.recorded_at <= time]
    if not found:
        raise NotFound(f"the build had not begun at {at}", hint=f"it began at {events[0].recorded_at}")
    return found[-1]


def turn_at(events: Sequence[RecordedEvent], version: int) -> int:
    """Returns the turn to which the event at this version belongs, 0 before the first model call."""
    started = (one.data for one in events[:version] if isinstance(one.data, ModelCallStarted))
    return max((fact.turn for fact in started), default=0)


def _end_of_turn(events: Sequence[RecordedEvent], turn: int) -> int:
    last, newest = 0, 0
    for event in events:
        if isinstance(event.data, CheckpointSaved) and event.data.turn == turn:
            return event.version
        if isinstance(event.data, ModelCallStarted):
            newest = max(newest, event.data.turn)
        if newest == turn:
            last = event.version
    if not last:
        raise NotFound(f"there is no turn {turn}", hint=f"the newest turn is {newest}")
    return last
