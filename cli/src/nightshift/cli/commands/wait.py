"""`nightshift wait`: wait for a condition of a build, not only for its end."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import cyclopts

from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.exits import Exit
from nightshift.cli.following import outcome
from nightshift.cli.output import note, write_json, write_line
from nightshift.cli.reading import open_builds
from nightshift.cli.standing import Standing, advance
from nightshift.contracts.events.build import Phase
from nightshift.runtime.errors import Refused

app = cyclopts.App(name="wait", help="Wait until a build is ready, asleep, or in a phase.")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.default
def wait(
    build: str,
    *,
    for_: Annotated[str, cyclopts.Parameter(name="--for")] = "ready",
    timeout: str | None = None,
    fail_on_sleep: bool = False,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> int:
    """Wait, then say where the build stands. A build that ends otherwise ends the wait with its own exit code.

    Examples:

        nightshift wait build-4f1c2a --timeout 8h

        nightshift wait build-4f1c2a --for phase=code --json

    Parameters
    ----------
    build
        The build's id.
    for_
        ready, sleeping, end, or phase=NAME (queued, starting, scaffold, code, deps, checks).
    timeout
        Give up after this long: 90s, 15m, 2h. Exit code 6.
    fail_on_sleep
        End with exit code 7 when the build falls asleep first.
    """
    met = condition(for_)
    standing, code = asyncio.run(_wait(home, build, met, fail_on_sleep, seconds(timeout)))
    if code is Exit.TIMED_OUT:
        note(
            f"error: {build} is not {for_} after {timeout}\nhint: `nightshift watch {build}` shows what it does"
        )
    if json:
        write_json(standing.as_json())
    else:
        write_line(f"{build} {standing.status} {standing.phase}")
    return code


async def _wait(
    home: Path, build: str, met: Callable[[Standing], bool], fail_on_sleep: bool, limit: float | None
) -> tuple[Standing, Exit]:
    standing = Standing(build)
    try:
        async with asyncio.timeout(limit), open_builds(home) as builds:
            async for batch in builds.follow(build, patience=15.0):
                for event in batch:
                    standing = advance(standing, event)
                    if met(standing):
                        return standing, Exit.OK
                if fail_on_sleep and standing.status == "sleeping":
                    return standing, Exit.ASLEEP
                ended = outcome(standing)
                if ended is not None:
                    return standing, Exit.ERROR if ended is Exit.OK else ended
    except TimeoutError:
        return standing, Exit.TIMED_OUT
    raise AssertionError("a followed build never ends by itself")


def condition(text: str) -> Callable[[Standing], bool]:
    """What `--for` asks. Raises Refused."""
    if text == "end":
        return lambda standing: standing.ended
    if text in ("ready", "sleeping"):
        return lambda standing: standing.status == text
    name, _, value = text.partition("=")
    if name == "phase" and value in set(Phase):
        return lambda standing: standing.phase == value
    raise Refused(f"cannot wait for {text!r}", hint="ready, sleeping, end, or phase=" + "|".join(Phase))


def seconds(text: str | None) -> float | None:
    """`90s`, `15m`, `2h`, or plain seconds. Raises Refused."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not found:
        raise Refused(f"{text!r} is no time", hint="such as 90s, 15m or 2h")
    return float(found[1]) * _UNITS[found[2] or "s"]
