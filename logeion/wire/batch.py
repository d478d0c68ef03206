"""The header of a record batch: read, checked, stamped; its records are never touched here.

    0  base offset            i64  ─┐ outside the CRC: the broker stamps base offset and leader epoch
    8  length                 i32   │ of all that follows this field
    12 partition leader epoch i32   │
    16 magic                  i8    │ 2
    17 crc                    u32  ─┘ CRC-32C (Castagnoli, "iSCSI") of bytes 21 to the end
    21 attributes             i16   bits 0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon
    23 last offset delta      i32
    27 base timestamp         i64   milliseconds; with bit 6 the delete horizon
    35 max timestamp          i64
    43 producer id            i64   -1: none
    51 producer epoch         i16
    53 base sequence          i32
    57 records                i32   their number
    61 records, or one compressed blob

Big-endian. The disk, the lanes and Kafka's protocol share this form, so a batch travels as it was received.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec
from fastcrc import crc32

from .buffers import Buffer
from .errors import (
    CorruptMessageError,
    InvalidRecordError,
    MessageTooLargeError,
    UnsupportedForMessageFormatError,
)

HEADER_SIZE = 61
MAGIC = 2

# Bytes before the length counts, and the offsets of the fields that are patched.
LENGTH_OVERHEAD = 12
MAGIC_AT = 16
CRC_AT = 17
CRC_FROM = 21
MAX_TIMESTAMP_AT = 35

CODEC_MASK = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20
DELETE_HORIZON = 0x40

ZSTD = 4

Bytes = bytes | bytearray | memoryview


class BatchHeader(msgspec.Struct, frozen=True, gc=False):
    """The 61 bytes before the records. ``length`` counts from byte 12; ``size`` is the whole batch."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int

    @property
    def size(self) -> int:
        """Bytes of the whole batch, its first twelve included."""
        return LENGTH_OVERHEAD + self.length

    @property
    def last_offset(self) -> int:
        """The offset of the last record; after compaction it may be gone."""
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        """Where the next batch begins."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        """The sequence of the last record (-1 without a producer id); it wraps from 2^31-1 to 0."""
        if self.base_sequence < 0:
            return -1
        return (self.base_sequence + self.last_offset_delta) & 0x7FFFFFFF

    @property
    def codec(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."""
        return self.attributes & CODEC_MASK

    @property
    def log_append_time(self) -> bool:
        """The records' time is ``max_timestamp``, set by the broker."""
        return bool(self.attributes & LOG_APPEND_TIME)

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        """A marker of the broker's, not records of a client's."""
        return bool(self.attributes & CONTROL)

    @property
    def delete_horizon_ms(self) -> int | None:
        """When compaction may drop the batch's tombstones (KIP-534)."""
        return self.base_timestamp if self.attributes & DELETE_HORIZON else None

    @property
    def has_producer(self) -> bool:
        """Whether an idempotent producer wrote it."""
        return self.producer_id >= 0


def read_header(buf: Bytes, at: int = 0) -> BatchHeader:
    """The header at this position; the batch's end need not be in the buffer.

    Raises CorruptMessageError: fewer than 61 bytes, another magic than 2, or an impossible length or count.
    """
    try:
        header = BatchHeader(*_unpack(buf, at))
    except struct.error:
        raise CorruptMessageError(f"batch header cut short: {len(buf) - at} of {HEADER_SIZE} bytes") from None
    if header.magic != MAGIC or header.length < HEADER_SIZE - LENGTH_OVERHEAD or header.count < 0:
        raise CorruptMessageError(
            f"no record batch at byte {at}: magic {header.magic}, length {header.length}, count {header.count}"
        )
    return header


def iter_headers(view: Bytes, at: int = 0) -> Iterator[tuple[int, BatchHeader]]:
    """(position, header) of each whole batch; a last one that is cut short ends it.

    Raises CorruptMessageError where a whole header makes no sense.
    """
    end = len(view)
    while end - at >= HEADER_SIZE:
        header = read_header(view, at)
        following = at + header.size
        if following > end:
            return
        yield at, header
        at = following


def verify_crc(view: Bytes, header: BatchHeader, at: int = 0) -> None:
    """Raises CorruptMessageError unless the batch at this position has the checksum its header claims."""
    size = header.size
    if len(view) - at < size:
        raise CorruptMessageError(f"batch of {size} bytes, {len(view) - at} of them here")
    crc = _crc32c(memoryview(view)[at + CRC_FROM : at + size])
    if crc != header.crc:
        raise CorruptMessageError(
            f"batch at offset {header.base_offset}: CRC {crc:#010x}, its header says {header.crc:#010x}"
        )


def check_produced(view: Bytes, max_size: int) -> BatchHeader:
    """What a broker checks of one partition's records in a Produce, short of the producer's state.

    Exactly one batch of magic 2, whole, at most ``max_size`` bytes (``max.message.bytes``), CRC, base offset 0, as many
    records as offsets, no control batch, a known codec, and a sequence if there is a producer id. Raises
    InvalidRecordError, UnsupportedForMessageFormatError, MessageTooLargeError or CorruptMessageError.
    """
    size = len(view)
    if size > MAGIC_AT and view[MAGIC_AT] < MAGIC:
        raise UnsupportedForMessageFormatError(f"records of magic {view[MAGIC_AT]}: only record batches of magic 2")
    if size == 0:
        raise InvalidRecordError("no record batch: a Produce carries exactly one for each partition")
    header = read_header(view)
    if header.size > max_size:
        raise MessageTooLargeError(f"batch of {header.size} bytes, the topic takes {max_size} (max.message.bytes)")
    if header.size > size:
        raise CorruptMessageError(f"batch of {header.size} bytes, {size} of them here")
    if header.size < size:
        raise InvalidRecordError("more than one record batch for a partition: a Produce carries exactly one")
    verify_crc(view, header)
    attributes = header.attributes
    if header.base_offset != 0:
        raise InvalidRecordError(f"base offset {header.base_offset} from a client: it must be 0")
    if header.count < 1 or header.count != header.last_offset_delta + 1:
        raise InvalidRecordError(f"{header.count} records in {header.last_offset_delta + 1} offsets")
    if attributes & (CONTROL | DELETE_HORIZON):
        raise InvalidRecordError("a client may write neither control batches nor delete horizons")
    if attributes & CODEC_MASK > ZSTD:
        raise InvalidRecordError(f"unknown codec {attributes & CODEC_MASK}")
    if header.producer_id >= 0:
        if header.base_sequence < 0 or header.producer_epoch < 0:
            raise InvalidRecordError(f"producer {header.producer_id} without epoch or sequence")
    elif attributes & TRANSACTIONAL:
        raise InvalidRecordError("a transactional batch without a producer id")
    return header


def stamped(view: Bytes, base_offset: int, leader_epoch: int) -> list[Buffer]:
    """The batch as the leader writes it: 16 fresh bytes, and the rest as a view of what came. The CRC still holds."""
    rest = memoryview(view)
    (length,) = _LENGTH.unpack_from(rest, 8)
    return [_STAMP.pack(base_offset, length, leader_epoch), rest[MAGIC_AT:]]


def restamp_time(view: Bytes, append_time_ms: int | None) -> bytearray:
    """A copy of the batch with the broker's time as LogAppendTime; None makes it CreateTime again.

    Only the header changes (bit 3, max timestamp, CRC), as in Kafka: records keep their deltas, which readers of
    a LogAppendTime batch ignore.
    """
    batch = bytearray(view)
    (attributes,) = _ATTRIBUTES.unpack_from(batch, CRC_FROM)
    if append_time_ms is None:
        _ATTRIBUTES.pack_into(batch, CRC_FROM, attributes & ~LOG_APPEND_TIME)
    else:
        _ATTRIBUTES.pack_into(batch, CRC_FROM, attributes | LOG_APPEND_TIME)
        _TIMESTAMP.pack_into(batch, MAX_TIMESTAMP_AT, append_time_ms)
    _CRC.pack_into(batch, CRC_AT, _crc32c(memoryview(batch)[CRC_FROM:]))
    return batch


def pack_batch(header: BatchHeader, body: Bytes) -> bytes:
    """A whole batch of these header fields and encoded records; its length and CRC are computed here."""
    checked = _CHECKED.pack(
        header.attributes,
        header.last_offset_delta,
        header.base_timestamp,
        header.max_timestamp,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.count,
    )
    crc = _crc32c(body, _crc32c(checked))
    length = HEADER_SIZE - LENGTH_OVERHEAD + len(body)
    return b"".join((_PREFIX.pack(header.base_offset, length, header.leader_epoch, MAGIC, crc), checked, body))


_crc32c = crc32.iscsi
_unpack = struct.Struct(">qiibIhiqqqhii").unpack_from
_PREFIX = struct.Struct(">qiibI")
_CHECKED = struct.Struct(">hiqqqhii")
_STAMP = struct.Struct(">qii")
_LENGTH = struct.Struct(">i")
_ATTRIBUTES = struct.Struct(">h")
_TIMESTAMP = struct.Struct(">q")
_CRC = struct.Struct(">I")
