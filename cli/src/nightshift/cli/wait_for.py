"""Waits for a build that was requested a moment ago and may not be in the log yet."""

from pathlib import Path

from nightshift.bus.kafka.reader import KafkaReader
from nightshift.bus.settings import KafkaSettings
from nightshift.cli.connect import settings_for
from nightshift.cli.output import note
from nightshift.cli.queries import Builds
from nightshift.eventlog.errors import NightshiftError, NotFound

#: How many of the newest requests in each partition are searched.
_NEWEST = 500
#: Seconds that the broker may take. When it does not answer, the build id is assumed to be right.
_ASKED = 5.0


async def known_or_sent(builds: Builds, home: Path, build_id: str) -> None:
    """Returns when the log has the build, or will probably have it soon because a recent request names it.

    Raises NotFound when neither is so. When the broker does not answer, the id is assumed to be right.
    """
    if await builds.has_build(build_id):
        return
    sent = await _was_sent(home, build_id)
    # The build may have been accepted while the broker was read.
    if await builds.has_build(build_id):
        return
    if sent is False:
        raise NotFound(
            f"there is no build {build_id}, and no recent request names it",
            hint="`nightshift builds` lists them",
        )
    note(f"{build_id} is not in the log yet; waiting until an orchestrator accepts it")


async def _was_sent(home: Path, build_id: str) -> bool | None:
    """Returns whether the newest requests include one for this build, or None when the broker does not answer."""
    name = build_id.encode()
    try:
        settings = settings_for(KafkaSettings, home)
        newest = KafkaReader(settings, timeout_s=_ASKED).read(settings.topics.requests, newest=_NEWEST)
        return any([one.key == name or ("ce_subject", name) in one.headers async for one in newest])
    except NightshiftError:
        return None
