"""`nightshift resume`: lets a paused build go on."""

import asyncio

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.output import note, write_json
from nightshift.cli.producer import checked
from nightshift.cli.to_build import send_to_build
from nightshift.contracts.events.requests import BuildResumeRequested

app = cyclopts.App(name="resume")


@app.default
def resume(build: str, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Let a paused build go on where it was.

    For example:

        nightshift resume build-4f1c2a

    Parameters
    ----------
    build
        The build's id.
    """
    request = checked(BuildResumeRequested, {"build_id": build})
    asyncio.run(send_to_build(home, build, request))
    if json:
        write_json({"build_id": build, "requested": "resume"})
    else:
        note(f"asked {build} to go on; `nightshift watch {build}` shows it")
