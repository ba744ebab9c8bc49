"""`nightshift limits`: raises a build's limits."""

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.output import write_result
from nightshift.cli.producer import checked
from nightshift.cli.to_build import send_to_build
from nightshift.contracts.events.requests import BuildLimitsSet

app = cyclopts.App(name="limits")


@app.default
async def limits(
    build: BuildId,
    *,
    turns: int | None = None,
    tool_calls: int | None = None,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Set the limits of a build. A build that waits at a limit goes on when it has room again.

    For example:

        nightshift limits build-4f1c2a --turns 400 --tool-calls 300

    Args:
        turns: The most turns.
        tool_calls: The most tool calls.
    """
    if turns is None and tool_calls is None:
        raise WrongUsage("no limit is given", hint="`--turns N`, `--tool-calls N`, or both")
    request = checked(BuildLimitsSet, {"build_id": build, "turn_limit": turns, "tool_call_limit": tool_calls})
    await send_to_build(home, build, request)
    text = f"set; `nightshift watch {build}` shows it"
    write_result({"build_id": build, "requested": "limits"}, text, as_json=json)
