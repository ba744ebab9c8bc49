"""`nightshift cancel`: stops a build."""

import asyncio
from pathlib import Path

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.output import note, write_json
from nightshift.cli.producer import checked, send
from nightshift.cli.queries import open_builds
from nightshift.contracts.events.requests import BuildCancelRequested
from nightshift.eventlog.errors import Refused

app = cyclopts.App(name="cancel")


@app.default
def cancel(build: str, *, reason: str | None = None, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Stop a build. Its model call and its running tool are cancelled within seconds.

    Example:

        nightshift cancel build-4f1c2a --reason "wrong idea"

    Parameters
    ----------
    build
        The build's id.
    reason
        The reason, which the log keeps.
    """
    request = checked(BuildCancelRequested, {"build_id": build, "reason": reason})
    asyncio.run(_cancel(home, request))
    if json:
        write_json({"build_id": build, "requested": "cancel"})
    else:
        note(f"asked {build} to stop; `nightshift watch {build}` shows it end")


async def _cancel(home: Path, request: BuildCancelRequested) -> None:
    async with open_builds(home) as builds:
        status = await builds.status(request.build_id)
    if status.ended:
        raise Refused(f"build {request.build_id} is {status.state} already")
    await send(home, request)
