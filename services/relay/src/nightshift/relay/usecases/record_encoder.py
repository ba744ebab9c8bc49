"""Encodes rows of the log as Kafka records without decoding their data. The result equals that of `encode_fact`."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial

from nightshift.bus.port import TopicPartition
from nightshift.contracts import topics as names
from nightshift.contracts.attributes import JSON_TYPE
from nightshift.contracts.envelope import fact_source
from nightshift.contracts.registry import model, wire_name
from nightshift.contracts.topics import Topics
from nightshift.eventlog.large import blob_key, put_blob
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.port import Row
from nightshift.relay.domain.records import Record

#: An upper limit in bytes of the key and headers of a message.
_AROUND = 4096


@lru_cache(maxsize=1024)
def _source(actor: str) -> bytes:
    return fact_source(actor).encode()


def _kind(topics: Topics, type_: str, version: int) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """Return the topic and the headers that all records of this event type and version share."""
    name = wire_name(type_, version)
    return topics.of(model(type_)), (
        (names.CONTENT_TYPE, JSON_TYPE.encode()),
        (names.SPECVERSION, b"1.0"),
        (names.TYPE, name.encode()),
        (names.DATASCHEMA, names.schema_uri(name).encode()),
    )


class RecordEncoder:
    """Encodes rows of the log as Kafka records.

    Data that makes a message larger than `inline_bytes` goes to the object store. The message then contains its key.
    """

    def __init__(self, topics: Topics, objects: ObjectStore, *, inline_bytes: int) -> None:
        self._objects = objects
        self._inline = inline_bytes
        self._kind = cache(partial(_kind, topics))  # one entry for each event type and version

    async def encode(
        self, rows: Sequence[Row], partition_of: Callable[[str, bytes], TopicPartition]
    ) -> list[Record]:
        """Return a record for each row, in order.

        Raises UnknownType when a newer release wrote a row, and Unavailable when the object store does not answer.
        """
        records = []
        for row in rows:
            record = self._record(row, row.data, None, partition_of)
            if len(record.value) > self._inline - _AROUND:
                digest = await put_blob(row.data.encode(), self._objects)
                record = self._record(row, "{}", blob_key(digest), partition_of)
            records.append(record)
        return records

    def _record(
        self, row: Row, data: str, dataref: str | None, partition_of: Callable[[str, bytes], TopicPartition]
    ) -> Record:
        topic, headers_of_kind = self._kind(row.type, row.schema_version)
        subject = row.stream_id.partition("-")[2].encode()
        headers = [
            *headers_of_kind,
            (names.ID, str(row.event_id).encode()),
            (names.SOURCE, _source(row.actor)),
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
        return Record(partition_of(topic, subject), subject, data.encode(), headers, row)
