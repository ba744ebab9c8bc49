"""A build in one file: its events as CloudEvents, the objects that they refer to, and whether texts were removed.

The file is a ZIP archive:
    nightshift.json     format, build, number of events, redacted or not
    events.ndjson       one CloudEvent in JSON format a line, in version order
    objects/<key>       the objects of the store: texts of more than 32 KiB, manifests and packs of snapshots
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote
from uuid import UUID

from nightshift.cli.redaction import redacted
from nightshift.contracts.canonical import dumps, loads
from nightshift.contracts.envelope import fact_source
from nightshift.contracts.errors import ContractError
from nightshift.contracts.registry import encode, parse_wire_name, validate, wire_name
from nightshift.eventlog.errors import NotFound, Refused
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import RecordedEvent, build_stream

FORMAT: Final = 1
SUFFIX: Final = ".nightshift.zip"
_HEADER, _EVENTS, _OBJECTS = "nightshift.json", "events.ndjson", "objects/"
_SOURCE_PREFIX = fact_source("")
#: The most bytes of one line and of one object that are read.
_MAX_LINE, _MAX_OBJECT = 16 * 1024**2, 256 * 1024**2


@dataclass(frozen=True)
class Archive:
    """The contents of an archive file. `keys` lists its objects, which are read from the file only when they are
    needed.
    """

    path: Path
    build_id: str
    redacted: bool
    events: tuple[RecordedEvent, ...]
    keys: tuple[str, ...]

    def object(self, key: str) -> bytes:
        """Returns the object with this key. Raises NotFound."""
        with zipfile.ZipFile(self.path) as file:
            try:
                return _read(file, _OBJECTS + key, _MAX_OBJECT, self.path)
            except KeyError:
                raise NotFound(f"{self.path.name} has no object {key}") from None

    def objects(self) -> MemoryObjectStore:
        """Returns an object store with the large texts of the events. Objects of snapshots are not loaded."""
        return MemoryObjectStore({key: self.object(key) for key in self.keys if key.startswith("blobs/")})


def is_archive(path: Path) -> bool:
    """Returns whether this file is an archive of a build."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return _HEADER in file.namelist()


def write_archive(
    path: Path,
    events: Sequence[RecordedEvent],
    objects: Iterable[tuple[str, Callable[[], bytes]]] = (),
    *,
    redact: bool,
) -> None:
    """Writes an archive, replacing an existing file. Each object is a key and a function that returns its bytes.

    If `redact`, the texts of people and models are removed from the events, and no object is written.
    """
    header = {
        "format": FORMAT,
        "build_id": events[0].subject,
        "events": len(events),
        "redacted": redact,
        "exported_at": datetime.now(UTC).isoformat(),
    }
    unfinished = path.with_name(path.name + ".part")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(_HEADER, json.dumps(header, indent=2))
            lines = (dumps(_cloud_event(redacted(one) if redact else one)) for one in events)
            file.writestr(_EVENTS, "".join(f"{line}\n" for line in lines))
            for key, body in () if redact else objects:
                file.writestr(_OBJECTS + key, body())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_archive(path: Path) -> Archive:
    """Reads an archive. Raises Refused when it does not contain all events of one build; the error names the line."""
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
            header = loads(_read(file, _HEADER, _MAX_LINE, path))
            if header.get("format") != FORMAT:
                raise Refused(
                    f"{path.name} has format {header.get('format')}",
                    hint=f"this release reads format {FORMAT}; a newer release may have written it",
                )
            events = tuple(_events(_read(file, _EVENTS, _MAX_OBJECT, path).decode().splitlines(), path.name))
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, ContractError, AttributeError) as error:
        raise Refused(f"{path.name} is no archive of a build: {error}") from error
    if len(events) != header.get("events"):
        raise Refused(f"{path.name} has {len(events)} events of {header.get('events')}: it is cut")
    keys = tuple(name.removeprefix(_OBJECTS) for name in names if name.startswith(_OBJECTS))
    return Archive(path, str(header.get("build_id")), bool(header.get("redacted")), events, keys)


def _read(file: zipfile.ZipFile, name: str, limit: int, path: Path) -> bytes:
    if file.getinfo(name).file_size > limit:
        raise Refused(f"{path.name}: {name} is larger than {limit:,} bytes")
    return file.read(name)


def _cloud_event(event: RecordedEvent) -> dict[str, Any]:
    attributes = {
        "specversion": "1.0",
        "id": str(event.event_id),
        "type": wire_name(event.data.type, event.data.version),
        "source": fact_source(event.actor),
        "subject": event.subject,
        "time": event.recorded_at,
        "datacontenttype": "application/json",
        "sequence": f"{event.version:019}",
        "correlationid": event.correlation_id,
        "causationid": str(event.causation_id),
        "data": loads(encode(event.data)),
    }
    return attributes if event.traceparent is None else {**attributes, "traceparent": event.traceparent}


def _events(lines: Iterable[str], name: str) -> Iterator[RecordedEvent]:
    for expected, line in enumerate(lines, start=1):
        where = f"{name}, line {expected}"
        try:
            event = _recorded(loads(line))
        except (ContractError, KeyError, ValueError, TypeError) as error:
            why = str(error) if isinstance(error, ContractError) else f"{type(error).__name__}: {error}"
            raise Refused(f"{where}: not an event: {why}") from error
        if event.version != expected:
            what = "a repeated version" if event.version < expected else "a gap"
            raise Refused(f"{where}: {what}: version {event.version} where {expected} must be")
        yield event


def _recorded(given: Mapping[str, Any]) -> RecordedEvent:
    kind, version = parse_wire_name(given["type"])
    return RecordedEvent(
        UUID(given["id"]),
        build_stream(given["subject"]),
        int(given["sequence"]),
        validate(kind, version, given["data"]),
        given["correlationid"],
        UUID(given["causationid"]),
        unquote(given["source"].removeprefix(_SOURCE_PREFIX)),
        given.get("traceparent"),
        datetime.fromisoformat(given["time"]),
    )
