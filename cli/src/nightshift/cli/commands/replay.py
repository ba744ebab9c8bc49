"""`nightshift replay`: prints what a build did, turn by turn, from its events alone."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import cyclopts

from nightshift.cli.build_status import BuildStatus, evolve
from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.follow import elapsed, event_json
from nightshift.cli.narration import lines
from nightshift.cli.output import write_json, write_line
from nightshift.cli.queries import open_builds
from nightshift.cli.text import dollars
from nightshift.contracts.events.build import ModelCallStarted
from nightshift.eventlog.port import RecordedEvent

app = cyclopts.App(name="replay")


@app.default
def replay(build: str, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Print what a build did, from its events. It calls no model and no sandbox, so it costs nothing.

    For example:

        nightshift replay build-4f1c2a

        nightshift replay build-4f1c2a --json

    Parameters
    ----------
    build
        The build's id.
    """
    events = asyncio.run(_events(home, build))
    if json:
        for event in events:
            write_json(event_json(event))
        write_json(_fold(build, events).as_json(datetime.now(UTC)))
        return
    for line in narrated(build, events):
        write_line(line)


async def _events(home: Path, build: str) -> list[RecordedEvent]:
    async with open_builds(home) as builds:
        return await builds.events(build)


def _fold(build: str, events: list[RecordedEvent]) -> BuildStatus:
    status = BuildStatus(build)
    for event in events:
        status = evolve(status, event)
    return status


def narrated(build: str, events: list[RecordedEvent]) -> list[str]:
    """Returns the lines: a heading for each turn, its events below, and a summary at the end."""
    status, turn, printed = BuildStatus(build), 0, []
    for event in events:
        before, status = status, evolve(status, event)
        if isinstance(event.data, ModelCallStarted) and event.data.turn != turn:
            turn = event.data.turn
            printed += ["", f"Turn {turn}"]
        for line in lines(before, event):
            printed.append(f"  {elapsed(status, line.at)}  {line.kind:<9} {line.text}")
    printed += [
        "",
        f"{status.state}: {status.turns} turns, {dollars(status.cost)}, {status.version} events",
    ]
    return printed
