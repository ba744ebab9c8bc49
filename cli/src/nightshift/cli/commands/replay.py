"""`nightshift replay`: the story of a build, turn by turn, from the log alone."""

import asyncio
from pathlib import Path

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.following import elapsed, event_json
from nightshift.cli.output import write_json, write_line
from nightshift.cli.reading import open_builds
from nightshift.cli.standing import Standing, advance, dollars
from nightshift.cli.story import lines
from nightshift.contracts.events.build import ModelCallStarted
from nightshift.eventlog.port import RecordedEvent

app = cyclopts.App(name="replay", help="Tell the story of a build again, turn by turn.")


@app.default
def replay(build: str, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Fold the log again and tell what happened. It costs nothing: no model and no sandbox is asked.

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
        write_json(_fold(build, events).as_json())
        return
    for line in told(build, events):
        write_line(line)


async def _events(home: Path, build: str) -> list[RecordedEvent]:
    async with open_builds(home) as builds:
        return await builds.events(build)


def _fold(build: str, events: list[RecordedEvent]) -> Standing:
    standing = Standing(build)
    for event in events:
        standing = advance(standing, event)
    return standing


def told(build: str, events: list[RecordedEvent]) -> list[str]:
    """The story: a heading per turn, what happened below it, and the sum at the end."""
    standing, turn, story = Standing(build), 0, []
    for event in events:
        before, standing = standing, advance(standing, event)
        if isinstance(event.data, ModelCallStarted) and event.data.turn != turn:
            turn = event.data.turn
            story += ["", f"Turn {turn}"]
        for line in lines(before, event):
            story.append(f"  {elapsed(standing, line.at)}  {line.kind:<9} {line.text}")
    story += [
        "",
        f"{standing.status}: {standing.turns} turns, {dollars(standing.cost)}, {standing.version} events",
    ]
    return story
