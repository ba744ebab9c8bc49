"""`nightshift replay`: prints what a build did, turn by turn, from its events alone."""

from datetime import UTC, datetime
from functools import reduce

import cyclopts

from nightshift.cli.build_status import BuildStatus, evolve
from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.follow import event_json, plain
from nightshift.cli.narration import lines
from nightshift.cli.output import write_json, write_line
from nightshift.cli.queries import open_builds
from nightshift.cli.text import dollars
from nightshift.contracts.events.build import ModelCallStarted

app = cyclopts.App(name="replay")


@app.default
async def replay(build: BuildId, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Print what a build did, from its events. It calls no model and no sandbox, so it costs nothing.

    For example:

        nightshift replay build-4f1c2a

        nightshift replay build-4f1c2a --json
    """
    async with open_builds(home) as builds:
        events = await builds.events(build)
    status, turn = BuildStatus(build), 0
    if json:
        for event in events:
            write_json(event_json(event))
        write_json(reduce(evolve, events, status).as_json(datetime.now(UTC)))
        return
    for event in events:
        before, status = status, evolve(status, event)
        if isinstance(event.data, ModelCallStarted) and event.data.turn != turn:
            turn = event.data.turn
            write_line(f"\nTurn {turn}")
        for line in lines(before, event):
            write_line(f"  {plain(status, line)}")
    write_line(f"\n{status.state}: {status.turns} turns, {dollars(status.cost)}, {status.version} events")
