"""`nightshift rewind`: returns a stopped build to the end of an earlier turn."""

import cyclopts

from nightshift.cli.commands.fork import ended_turn
from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.moments import At
from nightshift.cli.output import write_result
from nightshift.cli.producer import checked
from nightshift.cli.queries import open_builds
from nightshift.cli.to_build import send_to_build
from nightshift.contracts.events.requests import BuildRewindRequested, ForkPoint
from nightshift.eventlog.errors import Refused
from nightshift.orchestrator.usecases.replay import check_turn, may_rewind, state_after

app = cyclopts.App(name="rewind")


@app.default
async def rewind(
    build: BuildId, *, at: At, message: str | None = None, home: Home = DEFAULT_HOME, json: Json = False
) -> None:
    """Return a stopped build to the end of an earlier turn, with its conversation and its files.

    Pause a build that runs first. One that has ended cannot go back; fork it. The events of the abandoned branch stay
    in the log, and `nightshift fork` can still start from them. What they cost stays spent.

    For example:

        nightshift pause build-4f1c2a && nightshift rewind build-4f1c2a --at turn:7 --message "Use SQLite"

        nightshift resume build-4f1c2a

    Args:
        at: The turn to go back to, such as turn:7. A version or a time means the last turn that had ended by then.
        message: A message that the agent reads next.
    """
    async with open_builds(home) as builds:
        events = await builds.events(build)
    turn = ended_turn(events, at)
    check_turn(events, turn)
    if not may_rewind(state_after(events)):
        raise Refused(
            f"{build} is not stopped, or a call of it has no result yet",
            hint=f"`nightshift pause {build}` stops it, `nightshift fork` starts from one that has ended",
        )
    fields = {"build_id": build, "at": ForkPoint(turn=turn), "message": message}
    await send_to_build(home, build, checked(BuildRewindRequested, fields))
    sent = {"build_id": build, "turn": turn}
    write_result(sent, f"sent; `nightshift watch {build}` shows when the build is back", as_json=json)
