"""A build that is not in the log: was it asked for a moment ago, or does nobody know it?"""

from pathlib import Path

from nightshift.bus.kafka.reader import KafkaReader
from nightshift.bus.port import Inbound
from nightshift.bus.settings import KafkaSettings
from nightshift.cli.connect import settings_for
from nightshift.cli.output import note
from nightshift.cli.queries import Builds
from nightshift.eventlog.errors import NightshiftError, NotFound

#: Of each partition of the requests, how many of the last ones are looked through.
_NEWEST = 500
#: Seconds in which a broker that is asked must answer; one that does not is no reason to doubt the name.
_ASKED = 5.0


async def known_or_sent(builds: Builds, home: Path, build_id: str) -> None:
    """Return when the build is in the log, or its request is on its way there. Raises NotFound for neither."""
    if await builds.has_build(build_id):
        return
    sent = await _was_sent(home, build_id)
    # It may have come into the log while the broker was asked.
    if await builds.has_build(build_id):
        return
    if sent is False:
        raise NotFound(
            f"there is no build {build_id}, and nobody has asked for it lately",
            hint="`nightshift builds` lists them",
        )
    note(f"{build_id} is not in the log yet; waiting for the orchestrator to take it")


async def _was_sent(home: Path, build_id: str) -> bool | None:
    """Whether a request of this build is among the newest; none when the broker cannot be asked."""
    try:
        settings = settings_for(KafkaSettings, home)
        reader = KafkaReader(settings, timeout_s=_ASKED)
        return any(
            [_about(one, build_id) async for one in reader.read(settings.topics.requests, newest=_NEWEST)]
        )
    except NightshiftError:
        return None


def _about(record: Inbound, build_id: str) -> bool:
    name = build_id.encode()
    return record.key == name or ("ce_subject", name) in record.headers
