"""Sends a request about a build after checking that the build has not ended."""

from pathlib import Path

from nightshift.cli.build_status import BuildStatus
from nightshift.cli.producer import send
from nightshift.cli.queries import open_builds
from nightshift.contracts.model import Request
from nightshift.eventlog.errors import Refused


async def status_of_open(home: Path, build_id: str) -> BuildStatus:
    """Returns the status of a build. Raises NotFound, and Refused when the build has ended."""
    async with open_builds(home) as builds:
        status = await builds.status(build_id)
    if status.ended:
        raise Refused(f"build {build_id} is {status.state} already")
    return status


async def send_to_build(home: Path, build_id: str, request: Request) -> None:
    """Sends a request about a build. Raises NotFound, and Refused when the build has ended."""
    await status_of_open(home, build_id)
    await send(home, request)
