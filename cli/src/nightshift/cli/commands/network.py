"""`nightshift network`: shows which hosts a build reached, and which it was refused."""

from dataclasses import asdict, dataclass

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.output import note, write_json, write_table
from nightshift.cli.queries import open_builds
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.eventlog.port import RecordedEvent

app = cyclopts.App(name="network")


@dataclass(slots=True)
class HostUse:
    """The traffic of one build with one host, in bytes."""

    host: str
    connections: int = 0
    sent: int = 0
    received: int = 0
    refused: int = 0
    reason: str | None = None


def used(events: list[RecordedEvent]) -> list[HostUse]:
    """Returns the traffic of a build by host, the host with most bytes first."""
    found: dict[str, HostUse] = {}
    for event in events:
        if isinstance(event.data, ToolCallCompleted):
            for one in event.data.network or ():
                total = found.setdefault(one.host, HostUse(one.host))
                total.connections += one.connections
                total.sent += one.sent
                total.received += one.received
                total.refused += one.refused
                total.reason = one.reason or total.reason
    return sorted(found.values(), key=lambda one: (-one.sent - one.received, one.host))


@app.default
async def network(build: BuildId, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """List the hosts that a build reached, with bytes, and those that it was refused, with the reason.

    For example:

        nightshift network build-4f1c2a
    """
    async with open_builds(home) as builds:
        hosts = used(await builds.events(build))
    if json:
        write_json([asdict(one) for one in hosts])
    elif not hosts:
        note("no tool call of this build has used the network")
    else:
        columns = ("HOST", "CONNECTIONS", "SENT", "RECEIVED", "REFUSED", "REASON")
        write_table(
            columns,
            [tuple("" if value is None else value for value in asdict(one).values()) for one in hosts],
        )
