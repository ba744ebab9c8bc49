"""`nightshift log`: prints the events of a build."""

import asyncio
from pathlib import Path

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.follow import event_json
from nightshift.cli.output import write_json, write_table
from nightshift.cli.queries import open_builds
from nightshift.cli.text import short
from nightshift.contracts.registry import encode
from nightshift.eventlog.port import RecordedEvent

app = cyclopts.App(name="log")


@app.default
def log(build: str, *, after: int = 0, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Print every event of a build, in order.

    Examples:

        nightshift log build-4f1c2a

        nightshift log build-4f1c2a --json > build.jsonl

    Parameters
    ----------
    build
        The build's id.
    after
        Print only events with a version above this.
    """
    found = asyncio.run(_events(home, build, after))
    if json:
        for event in found:
            write_json(event_json(event))
        return
    write_table(
        ("VERSION", "AT", "TYPE", "BY", "DATA"),
        [
            (
                one.version,
                f"{one.recorded_at:%H:%M:%S.%f}"[:-3],
                one.data.type,
                one.actor,
                short(encode(one.data), 90),
            )
            for one in found
        ],
    )


async def _events(home: Path, build: str, after: int) -> list[RecordedEvent]:
    async with open_builds(home) as builds:
        return await builds.events(build, after=after)
