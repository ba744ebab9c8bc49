"""Checked batches always decode, lose no record, and end where the broker's did."""

import random

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.memory_records import MemoryRecords
from tests.support.record_batches import CODECS, RECORDS_AT, at_offset, batch, with_field, with_records

from nightshift.bus.kafka.record_check import CheckedRecords, check

NAME_NOT_UTF8 = (b"k", b"v", [("naxme", b"")])


def run(
    *batches: bytes, position: int = 0, end: int = 1000, final: bool = True, **more: int
) -> CheckedRecords:
    return check("t", 0, b"".join(map(bytes, batches)), position=position, end=end, final=final, **more)


def read(data: bytes, position: int = 0) -> tuple[list[int], int]:
    """What aiokafka returns of these batches: the offsets of its records, and where it fetches next."""
    records = PartitionRecords(
        TopicPartition("t", 0), MemoryRecords(data), [], position, None, None, False, READ_COMMITTED
    )
    return [record.offset for record in records], records.next_fetch_offset


def good(offset: int, count: int = 1, **more) -> bytearray:
    return at_offset(batch(*((b"k", b"v%d" % n, [("h", b"x")]) for n in range(count)), **more), offset)


def test_good_batches_are_passed_on_unchanged() -> None:
    data = bytes(good(0, 3) + good(3))
    found = check("t", 0, data, position=0, end=4, final=False)
    assert found.data is data
    assert (found.undecodable, found.damaged) == ({}, None)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_expanded(codec: str) -> None:
    found = run(good(0, 3, codec=codec), good(3))
    assert read(found.data) == ([0, 1, 2, 3], 4)


@pytest.mark.parametrize(
    "broken",
    [
        with_field(good(1), attributes=6),
        with_field(good(1), attributes=3),
        with_field(good(1), attributes=0x20),
        with_field(good(1), attributes=0x30),
        with_field(good(1), last_delta=-5),
        with_field(good(1), seal=False, crc=7),
        with_field(good(1), seal=False, magic=9),
        with_records(good(1), b"\xff" * 30),
        with_records(good(1), b""),
    ],
)
def test_broken_batch_is_replaced_between_good_ones(broken: bytearray) -> None:
    found = run(good(0), broken, good(2))
    assert read(found.data) == ([0, 1, 2], 3)
    assert [(each.offset, each.next_offset, each.value) for each in found.undecodable.values()] == [
        (1, 2, bytes(broken))
    ] or found.undecodable[1].value == bytes(broken[RECORDS_AT:])


def test_broken_record_is_replaced_alone() -> None:
    whole = batch((b"k", b"1", ()), NAME_NOT_UTF8, (b"k", b"3", ()))
    broken = with_records(whole, bytes(whole[RECORDS_AT:]).replace(b"naxme", b"na\xffme"))
    found = run(at_offset(broken, 5), good(8), position=5)
    assert read(found.data, 5) == ([5, 6, 7, 8], 9)
    assert list(found.undecodable) == [6]
    assert b"na\xffme" in found.undecodable[6].value


def test_broken_batch_stands_for_all_its_offsets() -> None:
    broken = with_field(good(5, 3), attributes=7)
    found = run(broken, good(8), position=6)
    assert read(found.data, 6) == ([7, 8], 9)
    assert (found.undecodable[7].offset, found.undecodable[7].next_offset) == (6, 8)


def test_offsets_out_of_order_are_not_believed() -> None:
    """A record may not say that it stands elsewhere: its offset would be committed."""
    far = bytes(good(0)[RECORDS_AT:]).replace(b"\x00\x00\x00", b"\x00\x00\x7e", 1)
    found = run(with_records(good(0), far), good(1))
    assert read(found.data) == ([0, 1], 2)
    assert list(found.undecodable) == [0]


def test_bomb_is_not_expanded() -> None:
    bomb = batch((b"k", bytes(4_000_000), ()), codec="zstd")
    found = run(bomb, good(1), limit=1_000_000)
    assert read(found.data) == ([0], 1)  # the rest comes with the next fetch
    assert found.undecodable[0].value == bytes(bomb)


def test_many_compressed_batches_are_left_for_later_fetches() -> None:
    each = batch((b"k", bytes(400_000), ()), codec="lz4")
    found = run(*(at_offset(each, offset) for offset in range(10)), limit=1_000_000)
    assert read(found.data) == ([0, 1, 2], 3)
    assert found.undecodable == {}


def test_damaged_batch_is_fetched_again_before_it_is_replaced() -> None:
    damaged = with_field(good(1), seal=False, crc=7)
    found = run(good(0), damaged, good(2), final=False)
    assert found.damaged == "the checksum does not match"
    assert read(found.data) == ([0], 1)
    assert found.undecodable == {}


@pytest.mark.parametrize("length", [-1, -100, 0, 5, 2**31 - 1])
def test_absurd_length_stops_nothing(length: int) -> None:
    found = run(with_field(good(3), seal=False, length=length), position=3)
    (first, *_), after = read(found.data, 3)
    assert (first, after) > (2, 3)
    assert found.undecodable[3].value


def test_batch_cut_off_at_the_end_is_left_for_the_next_fetch() -> None:
    found = run(good(0), good(1)[:-3], final=False)
    assert read(found.data) == ([0], 1)
    assert (found.undecodable, found.damaged) == ({}, None)


def test_marker_of_a_transaction_is_passed_over() -> None:
    marker = at_offset(batch((b"\x00\x00\x00\x01", b"\x00" * 6, ()), producer_id=9, transactional=True), 1)
    marker = with_field(marker, attributes=0x30)
    found = run(good(0), marker, good(2))
    assert read(found.data) == ([0, 2], 3)
    assert found.undecodable == {}


def test_whatever_the_bytes_all_decode_and_the_position_rises() -> None:
    """Bytes changed at random: one seed a run, printed with a failure."""
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for round_ in range(3000):
        data = bytearray(good(0, dice.randint(1, 4), codec=dice.choice(list(CODECS))))
        if dice.random() < 0.5:
            data += good(data[26] + 1, 2)
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(8, len(data))] = dice.randrange(256)
        if dice.random() < 0.7:
            head, tail = data[:61], data[61:]
            data = with_records(head, bytes(tail)) if len(tail) else data
        if dice.random() < 0.1:
            del data[dice.randrange(len(data)) :]
        position = dice.randrange(3)
        found = run(data, position=position)
        try:
            offsets, after = read(found.data, position)
            assert offsets == sorted(set(offsets))
            assert set(found.undecodable) <= set(offsets)
            assert after >= position
            assert found.data == b"" or after > position
        except Exception as error:
            raise AssertionError(f"seed {seed} round {round_}: {bytes(data)!r}") from error
