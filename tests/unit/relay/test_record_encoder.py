"""The relay encodes headers itself, for speed. They must equal those of the contracts."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from nightshift.bus.port import TopicPartition
from nightshift.contracts.cloudevents import encode_fact
from nightshift.contracts.envelope import Envelope, fact_source
from nightshift.contracts.model import Owner
from nightshift.contracts.registry import CATALOGUE, wire_name
from nightshift.contracts.topics import Topics
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import Row
from nightshift.relay.usecases.record_encoder import RecordEncoder

TOPICS = Topics("acme")
FACTS = [
    (type_, version)
    for (type_, version), model in CATALOGUE.models.items()
    if model.owner is not Owner.OUTSIDE
]


def row(type_: str, version: int, *, data: str = '{"a":"ü"}', trace: str | None = None) -> Row:
    return Row(
        7, 12, "build-b1", 34, uuid4(), type_, version, data, "corr", uuid4(), "budget/x y", trace,
        datetime(2026, 11, 22, 1, 2, 3, 456, tzinfo=UTC),
    )  # fmt: skip


def expected(one: Row, data: str, dataref: str | None = None):
    envelope = Envelope(
        id=str(one.event_id),
        type=wire_name(one.type, one.schema_version),
        source=fact_source(one.actor),
        subject="b1",
        time=one.recorded_at,
        sequence=one.version,
        correlation_id=one.correlation_id,
        causation_id=one.causation_id,
        flow_traceparent=one.traceparent,
        traceparent=one.traceparent,
        dataref=dataref,
    )
    return encode_fact(envelope, data)


def partition_of(topic: str, key: bytes) -> TopicPartition:
    return TopicPartition(topic, len(key))


@pytest.mark.parametrize("trace", [None, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"])
@pytest.mark.parametrize(("type_", "version"), FACTS)
async def test_a_record_equals_the_message_of_the_contracts(type_: str, version: int, trace: str | None):
    one = row(type_, version, trace=trace)
    (record,) = await RecordEncoder(TOPICS, MemoryObjectStore(), inline_bytes=100_000).encode(
        [one], partition_of
    )
    message = expected(one, one.data)
    assert (record.key, record.value) == (message.key, message.value)
    assert sorted(record.headers) == sorted(message.headers)
    assert record.partition == (TOPICS.of(CATALOGUE.model(type_)), 2)


async def test_large_data_is_stored_by_digest_and_referenced():
    objects = MemoryObjectStore()
    one = row("agent.steered", 1, data='"' + "x" * 9000 + '"')
    (record,) = await RecordEncoder(TOPICS, objects, inline_bytes=8192).encode([one], partition_of)
    (kept,) = [key async for key in _keys(objects)]
    assert record.value == b"{}"
    assert sorted(record.headers) == sorted(expected(one, "{}", kept).headers)
    assert await objects.get(kept) == one.data.encode()


async def _keys(objects: MemoryObjectStore):
    async for info in objects.list("blobs/"):
        yield info.key
