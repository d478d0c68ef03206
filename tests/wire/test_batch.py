"""Record batches: headers checked and stamped, records against kafka-python's and aiokafka's."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from aiokafka.record.default_records import (  # type: ignore[import-untyped]
    DefaultRecordBatch as AioBatch,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder as AioBuilder
from fastcrc import crc32
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record.default_records import (  # type: ignore[import-untyped]
    DefaultRecordBatch,
    DefaultRecordBatchBuilder,
)

from logeion.wire.batch import (
    CRC_AT,
    CRC_FROM,
    HEADER_SIZE,
    BatchHeader,
    check_produced,
    iter_headers,
    read_header,
    restamp_time,
    stamped,
    verify_crc,
)
from logeion.wire.errors import (
    CorruptMessageError,
    InvalidRecordError,
    KafkaError,
    LogeionError,
    MessageTooLargeError,
    OversizedError,
    UnsupportedForMessageFormatError,
)
from logeion.wire.records import Record, build_batch, read_records

RECORDS = [
    Record(0, 1_700_000_000_000, b"key", b"value", [("h", b"1"), ("h", None), ("λ", b"")]),
    Record(1, 1_700_000_000_005, None, b"", []),
    Record(2, 1_699_999_999_000, b"", None, []),
    Record(3, 1_700_000_000_001, b"k" * 200, b"v" * 5000, [("x" * 100, b"y" * 100)]),
]

LIMIT = 1 << 20


def patched(batch: bytes, at: int, layout: str, value: int, *, crc: bool = True) -> bytes:
    """The batch with one field changed, and its CRC made right again."""
    out = bytearray(batch)
    struct.pack_into(layout, out, at, value)
    return bytes(restamped(out)) if crc else bytes(out)


def restamped(batch: bytearray) -> bytearray:

    struct.pack_into(">I", batch, CRC_AT, crc32.iscsi(bytes(batch[CRC_FROM:])))
    return batch


def test_a_batch_has_exactly_these_bytes() -> None:
    batch = build_batch([Record(0, 1000, b"k", b"v", [("h", b"x")])])
    body = "14 00 00 00 02 6b 02 76 02 02 68 02 78"
    assert batch[HEADER_SIZE:] == bytes.fromhex(body.replace("14", "18", 1))
    assert batch[:CRC_AT] == bytes.fromhex("0000000000000000 0000003e ffffffff 02")
    assert batch[CRC_FROM:HEADER_SIZE] == bytes.fromhex(
        "0000 00000000 00000000000003e8 00000000000003e8 ffffffffffffffff ffff ffffffff 00000001"
    )


def plain(records: Any) -> list[Record]:
    return [
        Record(
            record.offset,
            record.timestamp,
            record.key and bytes(record.key) if record.key is not None else None,
            bytes(record.value) if record.value is not None else None,
            [(name, None if value is None else bytes(value)) for name, value in record.headers],
        )
        for record in records
    ]


@pytest.mark.oracle
@pytest.mark.parametrize("codec", range(5))
def test_kafka_python_and_aiokafka_read_our_batches(codec: int) -> None:
    batch = build_batch(RECORDS, codec=codec, producer_id=9, producer_epoch=1, base_sequence=5)
    aio = AioBatch(bytearray(batch))
    assert aio.validate_crc()
    assert plain(aio) == RECORDS
    if codec < 2:  # kafka-python has no snappy, lz4 and zstd of its own
        theirs = DefaultRecordBatch(batch)
        assert theirs.validate_crc()
        assert plain(theirs) == RECORDS
        assert (theirs.producer_id, theirs.producer_epoch, theirs.base_sequence) == (9, 1, 5)


@pytest.mark.oracle
@pytest.mark.parametrize("codec", range(5))
def test_we_read_the_batches_of_aiokafka_and_kafka_python(codec: int) -> None:
    common: dict[str, Any] = {
        "magic": 2,
        "compression_type": codec,
        "is_transactional": 0,
        "producer_id": 7,
        "producer_epoch": 2,
        "base_sequence": 4,
    }
    builders: list[Any] = [AioBuilder(batch_size=LIMIT, **common)]
    if codec < 2:
        builders.append(DefaultRecordBatchBuilder(batch_size=LIMIT, **common))
    for builder in builders:
        for record in RECORDS:
            builder.append(record.offset, record.timestamp, record.key, record.value, record.headers)
        batch = bytes(builder.build())
        header = check_produced(memoryview(batch), LIMIT)
        assert (header.producer_id, header.producer_epoch, header.base_sequence, header.codec) == (7, 2, 4, codec)
        assert header.last_sequence == 7
        assert read_records(batch, max_bytes=LIMIT) == RECORDS


@settings(max_examples=60, deadline=None, database=None)
@given(
    st.lists(
        st.builds(
            Record,
            offset=st.just(0),
            timestamp=st.integers(0, 2**50),
            key=st.none() | st.binary(max_size=300),
            value=st.none() | st.binary(max_size=300),
            headers=st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=20)), max_size=3),
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(0, 4),
    st.integers(0, 2**40),
)
def test_what_is_built_is_read_back(records: list[Record], codec: int, base: int) -> None:
    for index, record in enumerate(records):
        record.offset = base + index
    batch = build_batch(records, codec=codec)
    assert read_records(batch, max_bytes=LIMIT) == records
    header = read_header(batch)
    assert (header.base_offset, header.next_offset, header.count) == (base, base + len(records), len(records))
    assert header.max_timestamp == max(record.timestamp for record in records)


def test_a_compacted_batch_keeps_its_bounds() -> None:
    left = build_batch(RECORDS[2:3], base_offset=0, last_offset=9, delete_horizon_ms=5_000, leader_epoch=3)
    header = read_header(left)
    assert (header.base_offset, header.last_offset, header.count, header.leader_epoch) == (0, 9, 1, 3)
    assert header.delete_horizon_ms == 5_000
    assert read_records(left, max_bytes=LIMIT) == RECORDS[2:3]
    empty = build_batch([], base_offset=10, last_offset=12, max_timestamp=77)
    assert read_records(empty, max_bytes=LIMIT) == []
    assert (read_header(empty).next_offset, read_header(empty).max_timestamp) == (13, 77)
    with pytest.raises(ValueError, match="without records"):
        build_batch([])


def test_stamping_changes_sixteen_bytes_and_keeps_the_crc() -> None:
    batch = build_batch(RECORDS)
    pieces = stamped(memoryview(batch), 1 << 40, 12)
    assert isinstance(pieces[1], memoryview) and pieces[1].obj is batch
    out = b"".join(bytes(piece) for piece in pieces)  # type: ignore[arg-type]
    header = read_header(out)
    assert (header.base_offset, header.leader_epoch, header.size) == (1 << 40, 12, len(batch))
    verify_crc(out, header)
    assert out[16:] == batch[16:]
    assert [record.offset for record in read_records(out, max_bytes=LIMIT)] == [(1 << 40) + n for n in range(4)]


def test_log_append_time_is_every_records_time() -> None:
    batch = bytes(restamp_time(build_batch(RECORDS), 123_456))
    header = read_header(batch)
    verify_crc(batch, header)
    assert header.log_append_time and header.max_timestamp == 123_456
    assert {record.timestamp for record in read_records(batch, max_bytes=LIMIT)} == {123_456}
    assert not read_header(restamp_time(batch, None)).log_append_time
    assert batch[HEADER_SIZE:] == build_batch(RECORDS, append_time_ms=123_456)[HEADER_SIZE:]


def test_batches_are_walked_until_one_is_cut_short() -> None:
    one, two = build_batch(RECORDS), build_batch(RECORDS, base_offset=0, last_offset=7)
    log = one + two + one[:-1]
    assert [at for at, _ in iter_headers(log)] == [0, len(one)]
    assert [at for at, _ in iter_headers(log, len(one))] == [len(one)]
    with pytest.raises(CorruptMessageError, match="no record batch"):
        list(iter_headers(one + bytes(HEADER_SIZE)))


GOOD = build_batch(RECORDS, producer_id=1, producer_epoch=0, base_sequence=0)

REFUSED = {
    "nothing": (b"", InvalidRecordError),
    "cut in the header": (GOOD[:40], CorruptMessageError),
    "cut in the records": (GOOD[:-1], CorruptMessageError),
    "two batches": (GOOD + GOOD, InvalidRecordError),
    "magic 1": (patched(GOOD, 16, ">b", 1), UnsupportedForMessageFormatError),
    "magic 0": (patched(GOOD, 16, ">b", 0), UnsupportedForMessageFormatError),
    "magic 3": (patched(GOOD, 16, ">b", 3), CorruptMessageError),
    "negative length": (patched(GOOD, 8, ">i", -1), CorruptMessageError),
    "length of 48": (patched(GOOD, 8, ">i", 48), CorruptMessageError),
    "a flipped bit": (GOOD[:-1] + bytes([GOOD[-1] ^ 1]), CorruptMessageError),
    "base offset": (patched(GOOD, 0, ">q", 1), InvalidRecordError),
    "count above the offsets": (patched(GOOD, 57, ">i", 5), InvalidRecordError),
    "no records": (patched(patched(GOOD, 57, ">i", 0), 23, ">i", -1), InvalidRecordError),
    "control batch": (patched(GOOD, 21, ">h", 0x20), InvalidRecordError),
    "delete horizon": (patched(GOOD, 21, ">h", 0x40), InvalidRecordError),
    "unknown codec": (patched(GOOD, 21, ">h", 5), InvalidRecordError),
    "producer without sequence": (patched(GOOD, 53, ">i", -1), InvalidRecordError),
    "producer without epoch": (patched(GOOD, 51, ">h", -1), InvalidRecordError),
    "transaction without producer": (patched(patched(GOOD, 43, ">q", -1), 21, ">h", 0x10), InvalidRecordError),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_produced_batch_is_refused_for(name: str) -> None:
    batch, error = REFUSED[name]
    with pytest.raises(error):
        check_produced(memoryview(batch), LIMIT)


def test_a_produced_batch_may_be_as_large_as_the_topic_takes() -> None:
    assert isinstance(check_produced(GOOD, len(GOOD)), BatchHeader)
    with pytest.raises(MessageTooLargeError, match=r"max\.message\.bytes"):
        check_produced(GOOD, len(GOOD) - 1)


def test_control_batches_are_left_out_unless_asked_for() -> None:
    batch = build_batch([Record(0, 1, b"\0\0\0\1", b"")], control=True, transactional=True)
    assert read_records(batch, max_bytes=LIMIT) == []
    assert len(read_records(batch, max_bytes=LIMIT, control=True)) == 1


def test_a_bomb_in_a_batch_is_refused() -> None:
    bomb = build_batch([Record(0, 1, None, bytes(10_000_000))], codec=4)
    with pytest.raises(OversizedError):
        read_records(bomb, max_bytes=LIMIT)


def test_damaged_records_raise_typed_errors_only() -> None:

    rng = random.Random(4)
    for codec in range(5):
        batch = build_batch(RECORDS, codec=codec)
        for _ in range(400):
            bad = bytearray(batch)
            for _ in range(rng.randint(1, 3)):
                bad[rng.randrange(HEADER_SIZE, len(bad))] = rng.randrange(256)
            try:
                read_records(restamped(bad), max_bytes=LIMIT)
            except LogeionError as error:
                assert not isinstance(error, KafkaError) or isinstance(error, CorruptMessageError)
