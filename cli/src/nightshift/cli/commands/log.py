"""`nightshift log`: prints the events of a build."""

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.event_lines import event_json
from nightshift.cli.output import write_json, write_table
from nightshift.cli.queries import open_builds
from nightshift.cli.text import short
from nightshift.contracts.registry import encode
from nightshift.eventlog.port import RecordedEvent

app = cyclopts.App(name="log")


@app.default
async def log(build: BuildId, *, after: int = 0, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Print every event of a build, in order.

    For example:

        nightshift log build-4f1c2a

        nightshift log build-4f1c2a --json > build.jsonl

    Args:
        after: Print only events with a version above this.
    """
    async with open_builds(home) as builds:
        found = await builds.events(build, after=after)
    if not json:
        write_table(("VERSION", "AT", "TYPE", "BY", "DATA"), [_row(one) for one in found])
        return
    for event in found:
        write_json(event_json(event))


def _row(one: RecordedEvent) -> tuple[object, ...]:
    at = f"{one.recorded_at:%H:%M:%S.%f}"[:-3]
    return one.version, at, one.data.type, one.actor, short(encode(one.data), 90)
