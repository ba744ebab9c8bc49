"""`nightshift limits`: sets the limits of a build."""

import cyclopts

from nightshift.cli.amounts import microdollars
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
    cost: str | None = None,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Set the limits of a build. A build that waits at a limit continues when the new limit allows it.

    For example:

        nightshift limits build-4f1c2a --turns 400 --tool-calls 300

        nightshift limits build-4f1c2a --cost 7.50

    Args:
        turns: The most turns.
        tool_calls: The most tool calls.
        cost: The most that all model calls may cost, in US dollars. The build stops before a call that may pass it.
    """
    if turns is None and tool_calls is None and cost is None:
        raise WrongUsage(
            "no limit is given", hint="`--turns N`, `--tool-calls N`, `--cost AMOUNT`, or several"
        )
    fields = {"build_id": build, "turn_limit": turns, "tool_call_limit": tool_calls}
    if cost is not None:
        fields["cost_limit_microusd"] = microdollars(cost)
    request = checked(BuildLimitsSet, fields)
    await send_to_build(home, build, request)
    text = f"set; `nightshift watch {build}` shows it"
    write_result({"build_id": build, "requested": "limits"}, text, as_json=json)
