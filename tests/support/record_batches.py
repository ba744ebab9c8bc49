"""Record batches made by hand, and a way to send them to a broker as they are."""

import asyncio
import struct
import time
from collections.abc import Sequence

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

Headers = Sequence[tuple[str, bytes | None]]
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

_LENGTH_AT, _MAGIC_AT, _CRC_AT, _ATTRIBUTES_AT, _LAST_DELTA_AT, _COUNT_AT = 8, 16, 17, 21, 23, 57
RECORDS_AT = 61
_NO_LEADER_YET = {3, 5, 6}  # unknown topic or partition, leader not available, not the leader


def batch(
    *records: tuple[bytes | None, bytes | None, Headers],
    codec: str = "none",
    producer_id: int = -1,
    transactional: bool = False,
) -> bytearray:
    """A well-formed batch of these records (key, value, headers), beginning at offset 0."""
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], transactional, producer_id, 0, 0, 1 << 24)
    for offset, (key, value, headers) in enumerate(records):
        builder.append(offset, int(time.time() * 1000), key, value, list(headers))
    return bytearray(builder.build())


def at_offset(data: bytearray, offset: int) -> bytearray:
    """The batch as a broker keeps it at this offset; the checksum does not cover it."""
    return bytearray(struct.pack(">q", offset)) + data[8:]


def sealed(data: bytearray) -> bytearray:
    """The batch with the length and checksum of what it holds now."""
    data = bytearray(data)
    struct.pack_into(">i", data, _LENGTH_AT, len(data) - 12)
    struct.pack_into(">I", data, _CRC_AT, calc_crc32c(bytes(data[_ATTRIBUTES_AT:])))
    return data


def with_field(data: bytearray, *, seal: bool = True, **fields: int) -> bytearray:
    """The batch with header fields set: attributes, last_delta, count, magic, crc, length."""
    places = {
        "attributes": (">h", _ATTRIBUTES_AT),
        "last_delta": (">i", _LAST_DELTA_AT),
        "count": (">i", _COUNT_AT),
        "magic": (">b", _MAGIC_AT),
        "crc": (">I", _CRC_AT),
        "length": (">i", _LENGTH_AT),
    }
    data = bytearray(data)
    for name, value in fields.items():
        form, at = places[name]
        struct.pack_into(form, data, at, value)
    return sealed(data) if seal else data


def with_records(data: bytearray, records: bytes, *, count: int | None = None) -> bytearray:
    """The batch with other bytes in the place of its records."""
    changed = data[:RECORDS_AT] + records
    return with_field(changed, count=count) if count is not None else sealed(changed)


def values(data: bytes) -> list[bytes | None]:
    """What aiokafka reads from batches that decode."""
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from(">i", data, at + 8)
        found += [record.value for record in DefaultRecordBatch(data[at : at + 12 + length])]
        at += 12 + length
    return found


async def produce(bootstrap: str, topic: str, partition: int, data: bytes) -> int:
    """Send these bytes as a producer sends batches, and return the broker's error code.

    Asks again for the leader while the topic is so new that it has none, as every producer does.
    """
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        request = ProduceRequest(
            transactional_id=None,
            required_acks=-1,
            timeout=5000,
            topics=[(topic, [(partition, bytes(data))])],
        )
        async with asyncio.timeout(20):
            while True:
                node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
                if node not in (None, -1):
                    answer = await client.send(node, request)
                    code = int(answer.topics[0][1][0][1])
                    if code not in _NO_LEADER_YET:
                        return code
                await client.force_metadata_update()
    finally:
        await client.close()
