"""`nightshift watch`: follows a build to its end."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import cyclopts

from nightshift.cli.build_status import BuildStatus
from nightshift.cli.connect import DEFAULT_HOME, Home, Json
from nightshift.cli.exits import Exit
from nightshift.cli.follow import Stop, follow, outcome
from nightshift.cli.output import write_json
from nightshift.cli.queries import open_builds
from nightshift.cli.wait_for import known_or_sent
from nightshift.contracts.events.build import BuildAccepted
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.errors import Refused
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.usecases.admission import same_request

app = cyclopts.App(name="watch")

#: Seconds to wait for a build whose request was sent and that is not in the log yet.
PATIENCE = 15.0


@app.default
def watch(
    build: str,
    *,
    fail_on_sleep: bool = False,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> int:
    """Print what a build did and does until it ends, and why it waits. The exit code is the build's.

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


def follow_to_the_end(
    home: Path, build: str, *, as_json: bool, fail_on_sleep: bool = False, sent: BuildRequested | None = None
) -> int:
    """Shows a build until it ends and returns its exit code. With `as_json` the last line is its status.

    `sent` is the request that was just sent for it. Raises Refused when the log has another build under this id.
    """

    def stop(status: BuildStatus) -> Exit | None:
        if fail_on_sleep and status.state == "sleeping":
            return Exit.ASLEEP
        return outcome(status)

    status, code = asyncio.run(_watch(home, build, as_json, stop, sent))
    if as_json:
        write_json(status.as_json(datetime.now(UTC)))
    return code


async def _watch(
    home: Path, build: str, as_json: bool, stop: Stop, sent: BuildRequested | None
) -> tuple[BuildStatus, Exit]:
    async with open_builds(home) as builds:
        if sent is None:
            await known_or_sent(builds, home, build)
        batches = builds.follow(build, patience=PATIENCE)
        if sent is not None:
            batches = _only_of(sent, batches)
        return await follow(batches, build, as_json=as_json, stop=stop)


async def _only_of(
    sent: BuildRequested, batches: AsyncIterator[list[RecordedEvent]]
) -> AsyncIterator[list[RecordedEvent]]:
    """Yields the same batches. Raises Refused when the build was accepted from another request."""
    async for batch in batches:
        for event in batch:
            if isinstance(event.data, BuildAccepted) and not same_request(event.data, sent):
                raise Refused(
                    f"{sent.build_id} was requested before with other content: this request is refused",
                    hint="it is in the dead letters (`nightshift dlq list`); give every build an id of its own",
                )
        yield batch
