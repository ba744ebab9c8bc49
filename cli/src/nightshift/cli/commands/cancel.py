"""`nightshift cancel`: stops a build."""

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.output import write_result
from nightshift.cli.producer import checked
from nightshift.cli.to_build import send_to_build
from nightshift.contracts.events.requests import BuildCancelRequested

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
    await send_to_build(home, build, request)
    text = f"asked {build} to stop; `nightshift watch {build}` shows it end"
    write_result({"build_id": build, "requested": "cancel"}, text, as_json=json)
