"""`nightshift watch`: follows a build to its end."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import cyclopts

from nightshift.cli.build_status import BuildStatus
from nightshift.cli.connect import DEFAULT_HOME, BuildId, Home, Json
from nightshift.cli.exits import Exit
from nightshift.cli.follow import follow, outcome
from nightshift.cli.output import write_json
from nightshift.cli.queries import open_builds
from nightshift.cli.wait_for import known_or_sent
from nightshift.contracts.events.build import BuildAccepted
from nightshift.contracts.events.requests import BuildRequested
from nightshift.eventlog.errors import Refused
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.usecases.admission import same_request

app = cyclopts.App(name="watch")

#: Seconds to wait until a requested build is in the log.
PATIENCE = 15.0


@app.default
async def watch(
    build: BuildId, *, fail_on_sleep: bool = False, home: Home = DEFAULT_HOME, json: Json = False
) -> int:
    """Print what a build did and does until it ends, and why it waits. The exit code tells how the build ended.

    For example:

        nightshift watch build-4f1c2a

        nightshift watch build-4f1c2a --json | jq .type

    Args:
        fail_on_sleep: End with exit code 7 when the build falls asleep.
    """
    return await follow_to_the_end(home, build, as_json=json, fail_on_sleep=fail_on_sleep)


async def follow_to_the_end(
    home: Path, build: str, *, as_json: bool, fail_on_sleep: bool = False, sent: BuildRequested | None = None
) -> int:
    """Shows a build until it ends and returns the exit code for its end. If `as_json`, the last line is its status.

    `sent` is the request for the build, if it was just sent. Raises Refused when the log has another build with this
    id.
    """

    def stop(status: BuildStatus) -> Exit | None:
        return Exit.ASLEEP if fail_on_sleep and status.state == "sleeping" else outcome(status)

    async with open_builds(home) as builds:
        if sent is None:
            await known_or_sent(builds, home, build)
        batches = _checked(builds.follow(build, patience=PATIENCE), sent)
        status, code = await follow(batches, build, as_json=as_json, stop=stop)
    if as_json:
        write_json(status.as_json(datetime.now(UTC)))
    return code


async def _checked(
    batches: AsyncIterator[list[RecordedEvent]], sent: BuildRequested | None
) -> AsyncIterator[list[RecordedEvent]]:
    """Yields the batches unchanged. Raises Refused when the build was accepted from another request than `sent`."""
    async for batch in batches:
        for fact in (event.data for event in batch):
            if sent is not None and isinstance(fact, BuildAccepted) and not same_request(fact, sent):
                raise Refused(
                    f"{sent.build_id} was requested before with other content: this request is refused",
                    hint="it is in the dead letters (`nightshift dlq list`); give every build an id of its own",
                )
        yield batch
