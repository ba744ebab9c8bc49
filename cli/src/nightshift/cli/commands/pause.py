"""`nightshift pause`: stops a build for now."""

import asyncio

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.output import note, write_json
from nightshift.cli.producer import checked
from nightshift.cli.to_build import send_to_build
from nightshift.contracts.events.requests import BuildPauseRequested

app = cyclopts.App(name="pause")


@app.default
def pause(build: str, *, reason: str | None = None, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Stop a build for now. Its model call stops within seconds, and it keeps everything.

    For example:

        nightshift pause build-4f1c2a --reason "I want to look at it first"

    Parameters
    ----------
    build
        The build's id.
    reason
        The reason, which the log keeps.
    """
    request = checked(BuildPauseRequested, {"build_id": build, "reason": reason})
    asyncio.run(send_to_build(home, build, request))
    if json:
        write_json({"build_id": build, "requested": "pause"})
    else:
        note(f"asked {build} to pause; `nightshift resume {build}` lets it go on")
