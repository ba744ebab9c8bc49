"""`nightshift cancel`: stops a build."""

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.output import write_result
from nightshift.cli.producer import checked, send
from nightshift.cli.queries import open_builds
from nightshift.contracts.events.requests import BuildCancelRequested
from nightshift.eventlog.errors import Refused

app = cyclopts.App(name="cancel")


@app.default
async def cancel(
    build: BuildId, *, reason: str | None = None, home: Home = DEFAULT_HOME, json: Json = False
) -> None:
    """Stop a build. Its model call and its running tool are cancelled within seconds.

    For example:

        nightshift cancel build-4f1c2a --reason "wrong idea"

    Args:
        reason: The reason, which the log keeps.
    """
    request = checked(BuildCancelRequested, {"build_id": build, "reason": reason})
    async with open_builds(home) as builds:
        status = await builds.status(build)
    if status.ended:
        raise Refused(f"build {build} has ended already: it is {status.state}")
    await send(home, request)
    text = f"asked {build} to stop; `nightshift watch {build}` shows it end"
    write_result({"build_id": build, "requested": "cancel"}, text, as_json=json)
