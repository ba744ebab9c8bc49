"""`nightshift resume`: lets a paused build continue."""

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.output import write_result
from nightshift.cli.producer import checked
from nightshift.cli.to_build import send_to_build
from nightshift.contracts.events.requests import BuildResumeRequested

app = cyclopts.App(name="resume")


@app.default
async def resume(build: BuildId, *, home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Let a paused build continue where it stopped.

    For example:

        nightshift resume build-4f1c2a
    """
    request = checked(BuildResumeRequested, {"build_id": build})
    await send_to_build(home, build, request)
    text = f"asked {build} to go on; `nightshift watch {build}` shows it"
    write_result({"build_id": build, "requested": "resume"}, text, as_json=json)
