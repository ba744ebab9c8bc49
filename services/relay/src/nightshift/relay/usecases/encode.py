"""From a row of the log to a record of Kafka. The data is passed on as it stands, never decoded."""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256

from nightshift.contracts.cloudevents import encode_fact
from nightshift.contracts.envelope import Envelope, fact_source
from nightshift.contracts.registry import model, wire_name
from nightshift.contracts.topics import Topics
from nightshift.relay.domain.records import Lane, Record
from nightshift.runtime.log.port import Row
from nightshift.runtime.objects.port import ObjectStore

#: Where data goes that is too large for a message; consumers follow a `ce_dataref` to nowhere else.
BLOBS = "blobs/"
#: What key and headers of a message may weigh, at most.
_AROUND = 4096

_source = lru_cache(maxsize=1024)(fact_source)


class Encoder:
    """Makes records. A message over `inline_bytes` carries its data by reference, in the object store."""

    def __init__(self, topics: Topics, objects: ObjectStore, *, inline_bytes: int) -> None:
        self._topics = topics
        self._objects = objects
        self._inline = inline_bytes
        self._types: dict[tuple[str, int], tuple[str, str]] = {}  # bounded by the catalogue

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
        topic, name = self._type(row.type, row.schema_version)
        message = encode_fact(
            Envelope(
                id=str(row.event_id),
                type=name,
                source=_source(row.actor),
                subject=row.stream_id.partition("-")[2],
                time=row.recorded_at,
                sequence=row.version,
                correlation_id=row.correlation_id,
                causation_id=row.causation_id,
                flow_traceparent=row.traceparent,
                traceparent=row.traceparent,
                dataref=dataref,
            ),
            data,
        )
        return Record(
            lane=lane(topic, message.key),
            key=message.key,
            value=message.value,
            headers=message.headers,
            shard=row.shard,
            position=row.position,
            stream_id=row.stream_id,
            version=row.version,
            event_id=row.event_id,
            recorded_at=row.recorded_at,
        )

    def _type(self, type_: str, version: int) -> tuple[str, str]:
        known = self._types.get((type_, version))
        if known is None:
            known = self._topics.of(model(type_)), wire_name(type_, version)
            self._types[type_, version] = known
        return known

    async def _put(self, data: str) -> str:
        body = data.encode()
        digest = await asyncio.to_thread(lambda: sha256(body).hexdigest())
        key = f"{BLOBS}{digest}"
        await self._objects.put_if_absent(key, body)
        return key
