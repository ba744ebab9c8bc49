"""Reads the events of a build for a command: from the log, from lines of JSON, or from an archive."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nightshift.cli.archive import is_archive, read_archive
from nightshift.cli.connect import settings_for
from nightshift.cli.event_lines import read_lines
from nightshift.cli.queries import open_builds
from nightshift.contracts.marks import blob_fields
from nightshift.contracts.model import BlobRef
from nightshift.eventlog.errors import NotFound
from nightshift.eventlog.large import materialize
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.port import RecordedEvent
from nightshift.eventlog.settings import ObjectStoreSettings

Source = Annotated[
    str,
    Parameter(
        allow_leading_hyphen=True,
        help="The build's id, an archive of `nightshift export`, a file of events, or - for events on stdin.",
    ),
]


async def recorded_events(home: Path, source: str, *, whole: bool = False) -> list[RecordedEvent]:
    """Returns all events of a build. If `whole`, large fields are loaded from the object store into the events.

    `source` is a build id, a file or `-` for stdin. Raises NotFound. Raises Refused when a file is not the log of one
    build; the error names the line.
    """
    if source == "-":
        return read_lines(sys.stdin, "stdin")
    path = Path(source)
    if _is_file(path):
        if is_archive(path):
            archive = read_archive(path)
            return await _whole(archive.events, archive.objects()) if whole else list(archive.events)
        return _events_of_file(path)
    async with open_builds(home) as builds:
        events = await builds.events(source)
    if whole and any(map(_is_partly_stored, events)):
        async with S3ObjectStore(settings_for(ObjectStoreSettings, home)) as objects:
            return await _whole(events, objects)
    return events


def _is_file(path: Path) -> bool:
    """Returns whether the argument names an existing file.

    Returns False for a name without a suffix, because that is always a build id.
    """
    return path.suffix != "" and path.is_file()


def _events_of_file(path: Path) -> list[RecordedEvent]:
    try:
        with path.open(encoding="utf-8") as lines:
            return read_lines(lines, path.name)
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from error


def _is_partly_stored(event: RecordedEvent) -> bool:
    """Returns whether a field of the event is in the object store."""
    return any(isinstance(event.data.__dict__.get(name), BlobRef) for name in blob_fields(type(event.data)))


async def _whole(events: Sequence[RecordedEvent], objects: ObjectStore) -> list[RecordedEvent]:
    return [one._replace(data=await materialize(one.data, objects)) for one in events]
