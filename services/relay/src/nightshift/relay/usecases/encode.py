"""From a row of the log to a record of Kafka. The data is passed on as it stands, never decoded.

It writes what `encode_fact` of the contracts writes, which a test compares; header bytes that repeat are made once.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from nightshift.contracts import topics as names
from nightshift.contracts.attributes import JSON_TYPE
from nightshift.contracts.envelope import fact_source
from nightshift.contracts.registry import model, wire_name
from nightshift.contracts.topics import Topics
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.port import Row
from nightshift.relay.domain.records import Lane, Record

#: Where data goes that is too large for a message; consumers follow a `ce_dataref` to nowhere else.
BLOBS = "blobs/"
#: What key and headers of a message may weigh, at most.
_AROUND = 4096


@lru_cache(maxsize=1024)
def _log_reader(actor: str) -> bytes:
    return fact_source(actor).encode()


class RecordEncoder:
    """Makes records. A message over `inline_bytes` carries its data by reference, in the object store."""

    def __init__(self, topics: Topics, objects: ObjectStore, *, inline_bytes: int) -> None:
        self._topics = topics
        self._objects = objects
        self._inline = inline_bytes
        self._kinds: dict[tuple[str, int], _Kind] = {}  # bounded by the catalogue

    async def encode(self, rows: Sequence[Row], lane: Callable[[str, bytes], Lane]) -> list[Record]:
        """Records in the order of the rows.

        Raises UnknownType where a row is of a newer release than this one, and the object store's Unavailable.
        """
        records = []
        for row in rows:
            record = self._record(row, row.data, None, lane)
            if len(record.value) > self._inline - _AROUND:
                record = self._record(row, "{}", await self._put(row.data), lane)
            records.append(record)
        return records

    def _record(self, row: Row, data: str, dataref: str | None, lane: Callable[[str, bytes], Lane]) -> Record:
        kind = self._kinds.get((row.type, row.schema_version)) or self._kind(row.type, row.schema_version)
        subject = row.stream_id.partition("-")[2].encode()
        headers = [
            *kind.headers,
            (names.ID, str(row.event_id).encode()),
            (names.SOURCE, _log_reader(row.actor)),
            (names.SUBJECT, subject),
            (names.TIME, row.recorded_at.isoformat().replace("+00:00", "Z").encode()),
            (names.SEQUENCE, b"%019d" % row.version),
            (names.CORRELATION_ID, row.correlation_id.encode()),
            (names.CAUSATION_ID, str(row.causation_id).encode()),
        ]
        if row.traceparent is not None:
            trace = row.traceparent.encode()
            headers += [(names.FLOW_TRACEPARENT, trace), (names.TRACEPARENT, trace)]
        if dataref is not None:
            headers.append((names.DATAREF, dataref.encode()))
        return Record(
            lane(kind.topic, subject),
            subject,
            data.encode(),
            headers,
            row.shard,
            row.position,
            row.stream_id,
            row.version,
            row.event_id,
        )

    def _kind(self, type_: str, version: int) -> "_Kind":
        name = wire_name(type_, version)
        kind = _Kind(
            self._topics.of(model(type_)),
            (
                (names.CONTENT_TYPE, JSON_TYPE.encode()),
                (names.SPECVERSION, b"1.0"),
                (names.TYPE, name.encode()),
                (names.DATASCHEMA, names.schema_uri(name).encode()),
            ),
        )
        self._kinds[type_, version] = kind
        return kind

    async def _put(self, data: str) -> str:
        body = data.encode()
        digest = await asyncio.to_thread(lambda: sha256(body).hexdigest())
        key = f"{BLOBS}{digest}"
        await self._objects.put_if_absent(key, body)
        return key


class _Kind(NamedTuple):
    """What all events of a type and version share."""

    topic: str
    headers: tuple[tuple[str, bytes], ...]
