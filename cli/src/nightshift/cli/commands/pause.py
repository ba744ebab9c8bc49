"""`nightshift pause`: stops a build for a while."""

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.output import write_result
from nightshift.cli.producer import checked
from nightshift.cli.to_build import send_to_build
from nightshift.contracts.events.requests import BuildPauseRequested

app = cyclopts.App(name="pause")


@app.default
async def pause(
    build: BuildId, *, reason: str | None = None, home: Home = DEFAULT_HOME, json: Json = False
) -> None:
    """Stop a build for a while. Its model call stops within seconds, and nothing is lost.

    For example:

        nightshift pause build-4f1c2a --reason "I want to look at it first"

    Args:
        reason: The reason, which the log keeps.
    """
    request = checked(BuildPauseRequested, {"build_id": build, "reason": reason})
    await send_to_build(home, build, request)
    text = f"asked {build} to pause; `nightshift resume {build}` lets it go on"
    write_result({"build_id": build, "requested": "pause"}, text, as_json=json)
