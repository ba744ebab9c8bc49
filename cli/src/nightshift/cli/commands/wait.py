"""`nightshift wait`: waits until a build is ready, asleep, or in a phase."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import cyclopts

from nightshift.cli.build_status import BuildStatus, evolve
from nightshift.cli.commands.watch import PATIENCE
from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.errors import WrongUsage
from nightshift.cli.exits import Exit
from nightshift.cli.follow import outcome
from nightshift.cli.output import report_error, write_json, write_line
from nightshift.cli.queries import open_builds
from nightshift.cli.wait_for import known_or_sent
from nightshift.contracts.events.build import Phase
from nightshift.eventlog.port import RecordedEvent

app = cyclopts.App(name="wait")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.default
async def wait(
    build: BuildId,
    *,
    for_: Annotated[str, cyclopts.Parameter(name="--for")] = "ready",
    timeout: str | None = None,
    fail_on_sleep: bool = False,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> int:
    """Wait for a condition, then print the build's status. When the build ends first, the exit code is the build's.

    A phase also counts when the build has left it again. A sleep that is over does not count.

    For example:

        nightshift wait build-4f1c2a --timeout 8h

        nightshift wait build-4f1c2a --for phase=code --json

    Args:
        for_: ready, sleeping, waiting (for a person), end, or phase=NAME (queued, starting, scaffold, code, deps,
            checks).
        timeout: Give up with exit code 6 after this long, such as 90s, 15m or 2h.
        fail_on_sleep: End with exit code 7 when the build falls asleep first.
    """
    awaited, limit = condition(for_), seconds(timeout)
    status, code = BuildStatus(build), Exit.TIMED_OUT
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit), open_builds(home) as builds:
            await known_or_sent(builds, home, build)
            async for status, reached in waited(builds.follow(build, patience=PATIENCE), build, awaited):
                if reached is not None or (fail_on_sleep and status.state == "sleeping"):
                    code = Exit.ASLEEP if reached is None else reached
                    break
    now = datetime.now(UTC)
    if code is Exit.TIMED_OUT:
        why = status.waiting(now)
        report_error(
            f"{build} is not {for_} after {timeout}" + ("" if why is None else f": {why.reason}"),
            f"`nightshift watch {build}` shows what it does" if why is None else why.action,
        )
    elif code is Exit.ERROR:
        report_error(f"{build} has ended as {status.state}: it can no longer be {for_}")
    if json:
        write_json(status.as_json(now))
    else:
        write_line(f"{build} is {status.state}" + ("" if status.ended else f" in phase {status.phase}"))
    return code


@dataclass(frozen=True, slots=True)
class Awaited:
    """A condition on the status of a build. If `passing`, it also counts when it was met only before the wait began."""

    met: Callable[[BuildStatus], bool]
    passing: bool = False


async def waited(
    batches: AsyncIterator[list[RecordedEvent]], build: str, awaited: Awaited
) -> AsyncIterator[tuple[BuildStatus, Exit | None]]:
    """Yields the status after each batch of events, with an exit code.

    The exit code is None until the condition is met or the build has ended.
    """
    status = BuildStatus(build)
    async for batch in batches:
        # The first batch holds the events from before the wait.
        counts = awaited.passing or status.version > 0
        passed = False
        for event in batch:
            status = evolve(status, event)
            passed = passed or (counts and awaited.met(status))
        if passed or awaited.met(status):
            yield status, Exit.OK
            return
        ended = outcome(status)
        yield status, Exit.ERROR if ended is Exit.OK else ended


def condition(text: str) -> Awaited:
    """Returns the condition that the text of `--for` means. Raises WrongUsage."""
    if text == "end":
        return Awaited(lambda status: status.ended)
    if text in ("ready", "sleeping", "waiting"):
        return Awaited(lambda status: status.state == text)
    name, _, value = text.partition("=")
    if name == "phase" and value in set(Phase):
        return Awaited(lambda status: status.phase == value, passing=True)
    raise WrongUsage(
        f"cannot wait for {text!r}", hint="ready, sleeping, waiting, end, or phase=" + "|".join(Phase)
    )


def seconds(text: str | None) -> float | None:
    """Returns the number of seconds in a text such as `90s`, `15m`, `2h` or `90`. Returns None for None.

    Raises WrongUsage for any other text.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not found:
        raise WrongUsage(f"{text!r} is not a duration", hint="such as 90s, 15m or 2h")
    return float(found[1]) * _UNITS[found[2] or "s"]
