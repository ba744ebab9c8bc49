"""Checks fetched record batches before aiokafka decodes them, and replaces records that do not decode.

aiokafka raises in the middle of a poll when a record does not decode. It then loses records of other partitions that it
already counted as read, and fails at the same record in each later poll. So this module decodes every batch once. A
record that does not decode becomes an empty record at its offset, and its bytes are returned as `Undecodable`.
"""

import struct
from dataclasses import dataclass, field
from typing import Final

from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

from nightshift.bus.kafka import codecs
from nightshift.bus.port import Undecodable

#: The most bytes to which the batches of one partition in one response may expand. The rest is left for the next fetch.
EXPANDED_LIMIT: Final = 32 * 1024 * 1024

# Base offset, length of the rest, leader epoch, magic, CRC, attributes, last offset delta, first and greatest
# timestamp, producer id and epoch, base sequence, number of records.
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_FRAME: Final = struct.Struct(">qi")  # base offset and length of the rest: the same in every batch format
_MAGIC_AT: Final = 16
_LEAST_BYTES: Final = {0: 26, 1: 34, 2: _HEADER.size}
_CODEC_BITS: Final = 0x07
_CONTROL_BIT: Final = 0x20
_TRANSACTION_MARKERS: Final = (b"\x00\x00\x00\x00", b"\x00\x00\x00\x01")  # abort, commit


class _Broken(Exception):
    """The batch cannot be decoded. If `transit`, it may have been damaged on the way, so a new fetch may help."""

    def __init__(self, problem: str, *, transit: bool = False) -> None:
        super().__init__(problem)
        self.transit = transit


@dataclass(slots=True)
class CheckedRecords:
    """The records of one partition in one fetch response, safe to decode.

    - `data`: the batches, which decode without an error.
    - `undecodable`: the records that were replaced, by the offset of the empty record in their place.
    - `damaged`: the problem of a batch that should be fetched again, otherwise None. `data` ends before that batch.
    """

    data: bytes
    undecodable: dict[int, Undecodable] = field(default_factory=dict)
    damaged: str | None = None


def check(
    topic: str,
    partition: int,
    data: bytes,
    *,
    position: int,
    end: int,
    final: bool,
    limit: int = EXPANDED_LIMIT,
) -> CheckedRecords:
    """Check the batches of one partition that the broker returned for a fetch from the offset `position`.

    `end` is the partition's high watermark. A damaged batch is left out, so that it is fetched again. If `final`, it
    is replaced by an empty record instead. `limit` is the most bytes to which the batches may expand.
    """
    return _Check(topic, partition, data, position=position, end=end, final=final, limit=limit).run()


class _Check:
    def __init__(
        self, topic: str, partition: int, data: bytes, *, position: int, end: int, final: bool, limit: int
    ) -> None:
        self._topic, self._partition = topic, partition
        self._data = data
        self._position = position  # the next offset that aiokafka expects
        self._end = end
        self._final = final
        self._room = limit
        self._limit = limit
        self._parts: list[bytes] = []
        self._changed = False
        self._found = CheckedRecords(data)

    def run(self) -> CheckedRecords:
        at, size = 0, len(self._data)
        while at < size and self._room > 0:
            base, length = _FRAME.unpack_from(self._data, at) if size - at >= _FRAME.size else (-1, size)
            until = at + _FRAME.size + length
            try:
                if not 0 <= length <= size - at - _FRAME.size:
                    if at > 0:
                        break  # the broker may cut off the last batch of a response
                    problem = f"a batch of {length} bytes does not fit the answer of {size}"
                    raise _Broken(problem, transit=True)  # noqa: TRY301 - judged below
                batch = self._data[at:until]
                checked = self._batch(batch, base)
            except _Broken as error:
                batch = self._data[at : until if length >= 0 and until <= size else size]
                if error.transit and not self._final:
                    self._found.damaged = str(error)
                    self._changed = True
                    break
                checked = self._replaced(batch, str(error), intact=not error.transit)
                until = at + len(batch)
            self._changed = self._changed or checked is not batch
            if checked:
                self._parts.append(checked)
            at = until
        if self._changed or at < size:
            self._found.data = b"".join(self._parts)
        return self._found

    def _batch(self, batch: bytes, base: int) -> bytes:
        """Return the batch, or a copy of it without compression and with broken records replaced. `base` is the first
        offset.

        Raises _Broken when the batch as a whole does not decode.
        """
        magic = batch[_MAGIC_AT] if len(batch) > _MAGIC_AT else -1
        if magic not in _LEAST_BYTES:
            raise _Broken(f"unknown record format {magic}", transit=True)
        if len(batch) < _LEAST_BYTES[magic]:
            raise _Broken(f"a batch of {len(batch)} bytes is too short", transit=True)
        if base < 0 or (0 <= self._end <= base):
            raise _Broken(f"offset {base} is outside of the partition", transit=True)
        return self._legacy(batch, base, magic) if magic < 2 else self._current(batch, base)

    def _current(self, batch: bytes, base: int) -> bytes:
        decoder = DefaultRecordBatch(batch)
        if not decoder.validate_crc():
            raise _Broken("the checksum does not match", transit=True)
        last = decoder.last_offset_delta
        if last < 0:
            raise _Broken(f"the last offset is {last} from the first")
        if base + last < self._position:
            # All its records were read before. aiokafka would set its position back to the end of this batch.
            return b""
        codec = decoder.attributes & _CODEC_BITS
        if codec:
            batch = self._expanded(batch, codec)
            decoder = DefaultRecordBatch(batch)
        if decoder.is_control_batch:
            self._marker(decoder)
        else:
            try:
                _demand_order([record.offset for record in decoder], base, base + last)
            except Exception as error:  # noqa: BLE001 - whatever the decoder raises on hostile bytes
                batch = self._repaired(batch, base, last, error)
        self._position = max(self._position, base + last + 1)
        return batch

    def _expanded(self, batch: bytes, codec: int) -> bytes:
        """Return the batch without its compression `codec`. aiokafka would decompress it without a limit."""
        records = self._decompressed(codec, batch[_HEADER.size :])
        header = list(_HEADER.unpack_from(batch))
        header[1] = _HEADER.size - _FRAME.size + len(records)
        header[5] &= ~_CODEC_BITS
        return _HEADER.pack(*header) + records

    def _decompressed(self, codec: int, data: bytes) -> bytes:
        """Return the decompressed data, and subtract its size from the bytes allowed for this response.

        Raises _Broken when the data does not decode or exceeds the limit. A batch above the limit uses up all allowed
        bytes.
        """
        try:
            expanded = codecs.decompress(codec, data, limit=self._limit)
        except codecs.ExpandsTooFar as error:
            self._room = 0
            raise _Broken(str(error)) from None
        except ValueError as error:
            raise _Broken(str(error)) from None
        self._room -= len(expanded)
        return expanded

    def _marker(self, decoder: DefaultRecordBatch) -> None:
        """Raise _Broken unless this control batch has exactly one record, whose key is a transaction marker."""
        try:
            keys = [record.key for record in decoder]
        except Exception as error:  # noqa: BLE001 - whatever the decoder raises on hostile bytes
            raise _Broken(f"a control batch without a marker: {error}") from None
        if len(keys) != 1 or keys[0] not in _TRANSACTION_MARKERS or not decoder.is_transactional:
            raise _Broken("a control batch that ends no transaction")

    def _repaired(self, batch: bytes, base: int, last: int, error: Exception) -> bytes:
        """Return the batch with each broken record replaced by an empty one.

        Raises _Broken when it is unclear where the records begin and end.
        """
        header = list(_HEADER.unpack_from(batch))
        kept, broken = [], []
        next_delta = 0
        for raw in _split(batch, _HEADER.size):
            delta = _delta_of(raw, header, base)
            if delta is None or not next_delta <= delta <= last:
                delta = next_delta
                broken.append((delta, raw))
                kept.append(_empty_record(delta))
            else:
                kept.append(raw)
            next_delta = delta + 1
        if not broken or next_delta != last + 1:
            raise _Broken(f"{len(kept)} records do not fill {last + 1} offsets: {error}") from None
        for delta, raw in broken:
            self._set_aside(raw, base + delta, base + delta, f"record does not decode: {error}", header[8])
        records = b"".join(kept)
        header[1] = _HEADER.size - _FRAME.size + len(records)
        header[12] = len(kept)
        return _HEADER.pack(*header) + records

    def _legacy(self, batch: bytes, base: int, magic: int) -> bytes:
        """Return a batch in record format 0 or 1 (`magic`), which clients before 2017 send.

        Raises _Broken when it does not decode.
        """
        if base < self._position:
            return b""
        try:
            intact = LegacyRecordBatch(batch, magic).validate_crc()
            codec = batch[_MAGIC_AT + 1] & _CODEC_BITS
            if intact and codec:
                self._decompressed(codec, _legacy_value(batch, magic))
            if intact:
                _demand_order([record.offset for record in LegacyRecordBatch(batch, magic)], 0, base)
        except _Broken:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the decoder raises on hostile bytes
            raise _Broken(f"message does not decode: {error}") from None
        if not intact:
            raise _Broken("the checksum does not match", transit=True)
        self._position = max(self._position, base + 1)
        return batch

    def _replaced(self, batch: bytes, problem: str, *, intact: bool) -> bytes:
        """Return a batch with one empty record in place of a batch that does not decode.

        If `intact`, the header's checksum is right, so its offsets are used. Otherwise they are used only when they
        are plausible.
        """
        base, last, producer, transaction, timestamp = self._position, 0, (-1, -1, -1), 0, 0
        if len(batch) >= _HEADER.size and batch[_MAGIC_AT] == 2:
            header = _HEADER.unpack_from(batch)
            if intact:
                # Keep the producer and the transaction bit, so that an aborted transaction stays aborted.
                base, last, producer = header[0], max(header[6], 0), header[9:12]
                transaction, timestamp = header[5] & 0x10, header[8]
            elif header[6] >= 0 and self._position <= header[0] + header[6] < self._end:
                base, last = header[0], header[6]
        elif len(batch) >= _LEAST_BYTES[0] and intact:
            base = int.from_bytes(batch[:8], "big", signed=True)
        if base + last < self._position:
            return b""
        self._set_aside(batch, max(base, self._position), base + last, problem, timestamp)
        self._position = max(self._position, base + last + 1)
        record = _empty_record(last)
        length = _HEADER.size - _FRAME.size + len(record)
        return (
            _HEADER.pack(
                base, length, -1, 2, 0, transaction, last, 0, 0, producer[0], producer[1], producer[2], 1
            )
            + record
        )

    def _set_aside(self, raw: bytes, first: int, last: int, problem: str, timestamp: int) -> None:
        if last >= self._position:
            self._found.undecodable[last] = Undecodable(
                self._topic,
                self._partition,
                first,
                next_offset=last + 1,
                value=raw,
                problem=problem,
                timestamp=timestamp,
            )


def _demand_order(offsets: list[int], first: int, last: int) -> None:
    """Raise ValueError unless the offsets rise and lie between `first` and `last`. Compaction may leave gaps."""
    before = first - 1
    for offset in offsets:
        if not before < offset <= last:
            raise ValueError(f"offset {offset} is out of order")
        before = offset


def _split(batch: bytes, at: int) -> list[bytes]:
    """Split the records of a batch, which begin at position `at`, by the length in front of each.

    Bytes without a valid length form the last part.
    """
    found = []
    while at < len(batch):
        length, body = _varint(batch, at)
        until = body + length
        if length <= 0 or until > len(batch):
            until = len(batch)
        found.append(batch[at:until])
        at = until
    return found


def _delta_of(raw: bytes, header: list[int], base: int) -> int | None:
    """Return a record's distance from the batch's first offset `base`, or None when the record does not decode."""
    alone = [*header]
    alone[1], alone[12] = _HEADER.size - _FRAME.size + len(raw), 1
    try:
        (record,) = DefaultRecordBatch(_HEADER.pack(*alone) + raw)
    except Exception:  # noqa: BLE001 - whatever the decoder raises on hostile bytes
        return None
    return int(record.offset) - base


def _legacy_value(batch: bytes, magic: int) -> bytes:
    at = _LEAST_BYTES[magic] - 8
    for _ in range(2):  # first the key, then the value: each is a length and that many bytes
        size = max(int.from_bytes(batch[at : at + 4], "big", signed=True), 0)
        value = batch[at + 4 : at + 4 + size]
        at += 4 + size
    return value


def _empty_record(delta: int) -> bytes:
    """Return an encoded record without key, value and headers, at this distance from the batch's first offset."""
    body = b"\x00\x00" + _unsigned(delta << 1) + b"\x01\x01\x00"
    return _unsigned(len(body) << 1) + body


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the zigzag varint at this position and the position behind it.

    The number is -1 when the varint does not end.
    """
    value = shift = 0
    for index in range(at, min(at + 5, len(data))):
        value |= (data[index] & 0x7F) << shift
        if data[index] < 0x80:
            return (value >> 1) ^ -(value & 1), index + 1
        shift += 7
    return -1, at


def _unsigned(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
