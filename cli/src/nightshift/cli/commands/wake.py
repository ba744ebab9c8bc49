"""`nightshift wake`: wakes a sleeping build before its time."""

import asyncio
from pathlib import Path

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.output import note, write_json
from nightshift.cli.producer import checked, send
from nightshift.cli.queries import open_builds
from nightshift.contracts.events.requests import BuildWakeAsked
from nightshift.eventlog.errors import Refused

app = cyclopts.App(name="wake")


@app.default
def wake(build: str, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Wake a sleeping build now. It needs money: `nightshift account top-up` adds some.

    For example:

        nightshift wake build-4f1c2a

    Parameters
    ----------
    build
        The build's id.
    """
    request = checked(BuildWakeAsked, {"build_id": build})
    asyncio.run(_wake(home, request))
    if json:
        write_json({"build_id": build, "requested": "wake"})
    else:
        note(f"asked {build} to wake")


async def _wake(home: Path, request: BuildWakeAsked) -> None:
    async with open_builds(home) as builds:
        status = await builds.status(request.build_id)
    if status.state != "sleeping":
        raise Refused(f"build {request.build_id} is not asleep: it is {status.state}")
    await send(home, request)
