"""`nightshift limits`: raises a build's limits."""

import asyncio

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.output import note, write_json
from nightshift.cli.producer import checked
from nightshift.cli.to_build import send_to_build
from nightshift.contracts.events.requests import BuildLimitsSet

app = cyclopts.App(name="limits")


@app.default
def limits(
    build: str,
    *,
    turns: int | None = None,
    tool_calls: int | None = None,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Set the limits of a build. A build that waits at a limit goes on when it has room again.

    For example:

        nightshift limits build-4f1c2a --turns 400 --tool-calls 300

    Parameters
    ----------
    build
        The build's id.
    turns
        The most turns.
    tool_calls
        The most tool calls.
    """
    if turns is None and tool_calls is None:
        raise WrongUsage("no limit is given", hint="`--turns N`, `--tool-calls N`, or both")
    request = checked(BuildLimitsSet, {"build_id": build, "turn_limit": turns, "tool_call_limit": tool_calls})
    asyncio.run(send_to_build(home, build, request))
    if json:
        write_json({"build_id": build, "requested": "limits"})
    else:
        note(f"set; `nightshift watch {build}` shows it")
