"""Records that no client can decode: they stop nobody, and their bytes go to the dead letters."""

from collections.abc import Callable

import pytest
from tests.integration.bus.conftest import KafkaRig
from tests.support.bus_suite import Seen, request
from tests.support.record_batches import (
    CODECS,
    RECORDS_AT,
    batch,
    produce,
    with_field,
    with_records,
)
from tests.support.waiting import eventually

from nightshift.bus.port import Outgoing, Subscription
from nightshift.contracts.events.requests import BuildRequested

pytestmark = pytest.mark.kafka


def _request(build: str) -> tuple[bytes, bytes, tuple[tuple[str, bytes | None], ...]]:
    made = request(build)
    return made.key, made.value, made.headers


def _bomb() -> bytes:
    """Compresses to some kilobytes, expands to 64 MiB."""
    return bytes(batch((b"k", bytes(64 * 1024 * 1024), ()), codec="zstd"))


_GOOD = batch(_request("inside"))
KINDS: dict[str, Callable[[], bytes]] = {
    "wrong-checksum": lambda: bytes(with_field(_GOOD, seal=False, crc=1)),
    "unknown-codec": lambda: bytes(with_field(_GOOD, attributes=5)),
    "not-gzip": lambda: bytes(with_field(_GOOD, attributes=1)),
    "not-snappy": lambda: bytes(with_field(_GOOD, attributes=2)),
    "not-lz4": lambda: bytes(with_field(_GOOD, attributes=3)),
    "not-zstd": lambda: bytes(with_field(_GOOD, attributes=4)),
    "cut-lz4": lambda: bytes(
        with_records(batch(_request("inside"), codec="lz4"), b"\x04\x22\x4d\x18", count=1)
    ),
    "bomb": _bomb,
    "endless-varint": lambda: bytes(with_records(_GOOD, b"\xff" * 40, count=1)),
    "record-too-long": lambda: bytes(with_records(_GOOD, b"\xfe\x01" + bytes(10), count=1)),
    "record-cut-short": lambda: bytes(with_records(_GOOD, bytes(_GOOD[RECORDS_AT:-5]), count=1)),
    "headers-without-end": lambda: bytes(
        with_records(_GOOD, b"\x18\x00\x00\x00\x01\x01\xfe\xff\xff\xff\x0f\x00\x00", count=1)
    ),
    "header-name-not-utf8": lambda: bytes(
        batch((b"k", b"v", [("naxme", b"")])).replace(b"naxme", b"na\xffme")
    ),
    "count-too-high": lambda: bytes(with_field(_GOOD, count=1000)),
    "count-negative": lambda: bytes(with_field(_GOOD, count=-1)),
    "control": lambda: bytes(with_field(_GOOD, attributes=0x20)),
    "forged-marker": lambda: bytes(with_field(_GOOD, attributes=0x30)),
    "unknown-format": lambda: bytes(with_field(_GOOD, magic=3)),
}
#: Kinds whose checksum must be put right after the change.
_SEALED = {"header-name-not-utf8"}


def _made(kind: str) -> bytes:
    data = KINDS[kind]()
    return bytes(with_records(bytearray(data), data[RECORDS_AT:])) if kind in _SEALED else data


@pytest.mark.parametrize("kind", KINDS)
async def test_undecodable_record_is_dead_lettered(rig: KafkaRig, kind: str) -> None:
    """All lie in the topic before anyone reads, as when a service was down."""
    topic, data = rig.topics.requests, _made(kind)
    await _send(rig, "before", 0)
    error = await produce(rig.settings.kafka_bootstrap, topic, 0, data)
    if error:
        pytest.skip(f"this broker refuses it: error {error}")
    await _send(rig, "after", 0)
    for number in range(3):
        await _send(rig, f"other-{number}", 1)

    seen = Seen()
    expected = {"before", "after", "other-0", "other-1", "other-2"}
    async with rig.consumers(_subscription(rig, seen)):
        await eventually(lambda: set(seen.subjects) >= expected, timeout=20)
        (dead,) = await eventually(lambda: _dead_letters(rig), timeout=10)
        await eventually(lambda: _all_committed(rig), timeout=10)
    assert sorted(seen.subjects) == sorted(expected)
    assert (dead.reason, dead.branch, dead.source_partition, dead.source_offset) == (
        "undecodable_record",
        "refused",
        0,
        1,
    )
    stored = (
        dead.value
        if dead.value is not None
        else await rig.objects.get(f"dead-letters/{str(dead.value_ref)[7:]}")
    )
    # The batch, or the record alone. A broker writes the base offset and the leader epoch, in the first 16 bytes.
    assert data.endswith(stored[16:] if len(stored) > 16 else stored)
    # A restart meets nothing again.
    again = Seen()
    async with rig.consumers(_subscription(rig, again)):
        await _send(rig, "later", 0)
        await eventually(lambda: again.subjects == ["later"], timeout=20)
    assert len(await rig.dead_letters().list()) == 1


@pytest.mark.parametrize("codec", CODECS)
async def test_every_codec_is_read(rig: KafkaRig, codec: str) -> None:
    seen, topic = Seen(), rig.topics.requests
    async with rig.consumers(_subscription(rig, seen)):
        data = batch(*(_request(f"b{number}") for number in range(3)), codec=codec)
        assert await produce(rig.settings.kafka_bootstrap, topic, 0, bytes(data)) == 0
        await eventually(lambda: seen.subjects == ["b0", "b1", "b2"], timeout=20)
    assert await rig.dead_letters().list() == []


async def test_neighbours_in_the_same_batch_are_handled(rig: KafkaRig) -> None:
    broken = (b"k", b"v", [("naxme", b"")])
    whole = batch(_request("first"), broken, _request("third"))
    data = bytes(with_records(whole, bytes(whole[RECORDS_AT:]).replace(b"naxme", b"na\xffme")))
    error = await produce(rig.settings.kafka_bootstrap, rig.topics.requests, 0, data)
    if error:
        pytest.skip(f"this broker refuses it: error {error}")
    seen = Seen()
    async with rig.consumers(_subscription(rig, seen)):
        await eventually(lambda: seen.subjects == ["first", "third"], timeout=20)
        (dead,) = await eventually(lambda: _dead_letters(rig), timeout=10)
    assert (dead.source_offset, b"na\xffme" in (dead.value or b"")) == (1, True)


def _subscription(rig: KafkaRig, seen: Seen) -> Subscription:
    return Subscription(rig.topics.requests, f"{rig.topics.prefix}.r", {BuildRequested: seen})


async def _send(rig: KafkaRig, build: str, partition: int) -> None:
    await rig.producer.send([Outgoing(rig.topics.requests, *_request(build), partition=partition)])


async def _dead_letters(rig: KafkaRig):
    return [each.dead_letter for each in await rig.dead_letters().list()] or None


async def _all_committed(rig: KafkaRig) -> bool:
    return await rig.committed(f"{rig.topics.prefix}.r", rig.topics.requests) == 6
