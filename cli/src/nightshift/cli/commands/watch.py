"""`nightshift watch`: follow a build to its end."""

import asyncio
from pathlib import Path

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.exits import Exit
from nightshift.cli.following import Stop, follow, outcome
from nightshift.cli.output import write_json
from nightshift.cli.reading import open_builds
from nightshift.cli.standing import Standing

app = cyclopts.App(name="watch", help="Follow a build: phases, tool calls, money, sleep, preview.")

#: Seconds to wait for a build that was asked for a moment ago and is not in the log yet.
_PATIENCE = 15.0


@app.default
def watch(
    build: str,
    *,
    fail_on_sleep: bool = False,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> int:
    """Show what happened and what happens, until the build ends. The exit code is the build's.

    Examples:

        nightshift watch build-4f1c2a

        nightshift watch build-4f1c2a --json | jq .type

    Parameters
    ----------
    build
        The build's id.
    fail_on_sleep
        End with exit code 7 when the build falls asleep.
    """
    return follow_to_the_end(home, build, as_json=json, fail_on_sleep=fail_on_sleep)


def follow_to_the_end(home: Path, build: str, *, as_json: bool, fail_on_sleep: bool = False) -> int:
    """Show a build until it ends; its outcome as an exit code. With `as_json` the last line is where it stands."""

    def stop(standing: Standing) -> Exit | None:
        if fail_on_sleep and standing.status == "sleeping":
            return Exit.ASLEEP
        return outcome(standing)

    standing, code = asyncio.run(_watch(home, build, as_json, stop))
    if as_json:
        write_json(standing.as_json())
    return code


async def _watch(home: Path, build: str, as_json: bool, stop: Stop) -> tuple[Standing, Exit]:
    async with open_builds(home) as builds:
        return await follow(builds.follow(build, patience=_PATIENCE), build, as_json=as_json, stop=stop)
