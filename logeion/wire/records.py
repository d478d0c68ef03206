"""The records inside a batch: for clients, compaction and tools; the broker's hot path never comes here.

    record = length varint | attributes i8 | timestamp delta varlong | offset delta varint
           | key length varint | key | value length varint | value | headers varint | header...
    header = key length varint | key | value length varint | value

All varints are zigzag; a length of -1 is null.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .batch import (
    CONTROL,
    DELETE_HORIZON,
    HEADER_SIZE,
    LOG_APPEND_TIME,
    MAGIC,
    TRANSACTIONAL,
    BatchHeader,
    Bytes,
    iter_headers,
    pack_batch,
    verify_crc,
)
from .compression import compress, decompress
from .errors import CorruptMessageError, DecompressionError, OversizedError


class Record(msgspec.Struct, gc=False):
    """One record. ``timestamp`` in milliseconds since 1970; headers in order, keys may repeat."""

    offset: int = 0
    timestamp: int = -1
    key: bytes | None = None
    value: bytes | None = None
    headers: list[tuple[str, bytes | None]] = []


def read_records(view: Bytes, *, max_bytes: int, check_crc: bool = True, control: bool = False) -> list[Record]:
    """The records of all whole batches, in order; control batches only if asked for.

    ``max_bytes`` bounds what one batch may become when decompressed. Raises CorruptMessageError, OversizedError.
    """
    records: list[Record] = []
    for at, header in iter_headers(view):
        if header.is_control and not control:
            continue
        if check_crc:
            verify_crc(view, header, at)
        records += batch_records(memoryview(view)[at : at + header.size], header, max_bytes=max_bytes)
    return records


def batch_records(
    batch: memoryview, header: BatchHeader, *, max_bytes: int, max_records: int | None = None
) -> list[Record]:
    """The records of one whole batch whose header was read.

    A record of seven bytes becomes an object of a hundred: ``max_records`` is for those who read what anybody wrote.
    Raises CorruptMessageError, OversizedError.
    """
    if max_records is not None and header.count > max_records:
        raise OversizedError(f"{header.count} records in a batch, {max_records} can be read")
    body = batch[HEADER_SIZE : header.size]
    if header.codec:
        try:
            body = decompress(header.codec, body, max_bytes)
        except DecompressionError as cause:
            raise CorruptMessageError(f"batch at offset {header.base_offset}: {cause}") from cause
    # Seven bytes are the smallest record: a count that cannot be is found before anything is made of it.
    if 7 * header.count > len(body):
        raise CorruptMessageError(f"{header.count} records announced in {len(body)} bytes")
    try:
        return _parse(body, header)
    except IndexError as cause:
        raise CorruptMessageError(f"batch at offset {header.base_offset}: a record is cut short") from cause
    except UnicodeDecodeError as cause:
        raise CorruptMessageError(f"batch at offset {header.base_offset}: a header's key is not UTF-8") from cause


def build_batch(
    records: Sequence[Record],
    *,
    codec: int = 0,
    level: int | None = None,
    base_offset: int | None = None,
    last_offset: int | None = None,
    leader_epoch: int = -1,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    transactional: bool = False,
    control: bool = False,
    append_time_ms: int | None = None,
    delete_horizon_ms: int | None = None,
    max_timestamp: int | None = None,
) -> bytes:
    """One batch of these records, which stand in rising order of offset.

    The batch spans ``base_offset`` to ``last_offset``, by default the records' own; compaction passes those of the
    batch it came from, and may leave no record at all. ``append_time_ms`` makes it LogAppendTime, ``delete_horizon_ms``
    marks its tombstones (KIP-534). ``max_timestamp`` is by default the records' highest. Raises ValueError if there
    are neither records nor bounds.
    """
    if not records and (base_offset is None or last_offset is None):
        raise ValueError("a batch without records needs its base and last offset")
    base = records[0].offset if base_offset is None else base_offset
    last = records[-1].offset if last_offset is None else last_offset
    base_timestamp = records[0].timestamp if records else -1
    if delete_horizon_ms is not None:
        base_timestamp = delete_horizon_ms
    if append_time_ms is not None:
        max_timestamp = append_time_ms
    elif max_timestamp is None:
        max_timestamp = max((record.timestamp for record in records), default=-1)
    attributes = codec
    for bit, wanted in (
        (LOG_APPEND_TIME, append_time_ms is not None),
        (TRANSACTIONAL, transactional),
        (CONTROL, control),
        (DELETE_HORIZON, delete_horizon_ms is not None),
    ):
        if wanted:
            attributes |= bit
    body: Bytes = _encode(records, base, base_timestamp)
    if codec:
        body = compress(codec, body, level)
    header = BatchHeader(
        base_offset=base,
        length=0,
        leader_epoch=leader_epoch,
        magic=MAGIC,
        crc=0,
        attributes=attributes,
        last_offset_delta=last - base,
        base_timestamp=base_timestamp,
        max_timestamp=max_timestamp,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        count=len(records),
    )
    return pack_batch(header, body)


def _encode(records: Sequence[Record], base_offset: int, base_timestamp: int) -> bytearray:
    body = bytearray()
    part = bytearray()
    for record in records:
        part.clear()
        part.append(0)
        _put(part, record.timestamp - base_timestamp)
        _put(part, record.offset - base_offset)
        _put_sized(part, record.key)
        _put_sized(part, record.value)
        headers = record.headers
        if headers:
            _put(part, len(headers))
            for name, content in headers:
                _put_sized(part, name.encode())
                _put_sized(part, content)
        else:
            part.append(0)
        _put(body, len(part))
        body += part
    return body


def _put_sized(out: bytearray, value: bytes | None) -> None:
    if value is None:
        out.append(1)
        return
    size = len(value)
    if size < 64:
        out.append(size << 1)
    else:
        _put(out, size)
    out += value


def _put(out: bytearray, value: int) -> None:
    """Appends a zigzag varint: 0, -1, 1, -2 … become 0, 1, 2, 3 …"""
    value = value << 1 if value >= 0 else (-value << 1) - 1
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def _get(data: bytes, at: int) -> tuple[int, int]:
    """The zigzag varint at this position and the position after it; at most ten bytes."""
    byte = data[at]
    at += 1
    value = byte & 127
    shift = 7
    while byte > 127:
        if shift > 63:
            raise CorruptMessageError("varint longer than 10 bytes in a record")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
    return (value >> 1) ^ -(value & 1), at


# The zigzag integers of one byte. ``_parse`` reads these in line, and those of two bytes that are not negative: nearly
# all of a record's integers are that small, and a call for each would double its cost.
_SMALL = tuple((byte >> 1) ^ -(byte & 1) for byte in range(128))


def _parse(body: memoryview, header: BatchHeader) -> list[Record]:
    data = bytes(body)
    end = len(data)
    at = 0
    records: list[Record] = []
    put, make = records.append, Record
    small = _SMALL
    base_offset, base_timestamp = header.base_offset, header.base_timestamp
    append_time = header.max_timestamp if header.log_append_time else None
    for _ in range(header.count):
        if (byte := data[at]) < 128:
            size = small[byte]
            at += 1
        elif (high := data[at + 1]) < 128 and not byte & 1:
            size = high << 6 | (byte & 127) >> 1
            at += 2
        else:
            size, at = _get(data, at)
        stop = at + size
        if size < 0 or stop > end:
            raise CorruptMessageError(f"record of {size} bytes, {end - at} left")
        if (byte := data[at + 1]) < 128:
            timestamp = small[byte]
            at += 2
        elif (high := data[at + 2]) < 128 and not byte & 1:
            timestamp = high << 6 | (byte & 127) >> 1
            at += 3
        else:
            timestamp, at = _get(data, at + 1)
        if (byte := data[at]) < 128:
            offset = small[byte]
            at += 1
        elif (high := data[at + 1]) < 128 and not byte & 1:
            offset = high << 6 | (byte & 127) >> 1
            at += 2
        else:
            offset, at = _get(data, at)
        if (byte := data[at]) == 1:
            key = None
            at += 1
        else:
            if byte < 128:
                size = small[byte]
                at += 1
            else:
                size, at = _get(data, at)
            key = None
            if size >= 0:
                after = at + size
                key = data[at:after]
                at = after
        if (byte := data[at]) < 128:
            size = small[byte]
            at += 1
        elif (high := data[at + 1]) < 128 and not byte & 1:
            size = high << 6 | (byte & 127) >> 1
            at += 2
        else:
            size, at = _get(data, at)
        value = None
        if size >= 0:
            after = at + size
            value = data[at:after]
            at = after
        headers: list[tuple[str, bytes | None]] = []
        if data[at]:
            at = _headers(data, at, stop, headers)
        else:
            at += 1
        # Slices may have been shorter than announced; then the record's end was passed, and it shows here.
        if at != stop:
            raise CorruptMessageError(f"record ends at byte {at} instead of {stop}")
        when = base_timestamp + timestamp if append_time is None else append_time
        put(make(base_offset + offset, when, key, value, headers))
    if at != end:
        raise CorruptMessageError(f"{end - at} bytes left over after {header.count} records")
    return records


def _headers(data: bytes, at: int, stop: int, headers: list[tuple[str, bytes | None]]) -> int:
    count, at = _get(data, at)
    if not 0 <= 2 * count <= stop - at:
        raise CorruptMessageError(f"{count} headers announced, {stop - at} bytes left in the record")
    for _ in range(count):
        name, at = _sized(data, at, stop)
        content, at = _sized(data, at, stop)
        if name is None:
            raise CorruptMessageError("a header without a key")
        headers.append((name.decode(), content))
    return at


def _sized(data: bytes, at: int, stop: int) -> tuple[bytes | None, int]:
    size, at = _get(data, at)
    if size < 0:
        return None, at
    if size > stop - at:
        raise CorruptMessageError(f"{size} bytes announced, {stop - at} left in the record")
    return data[at : at + size], at + size
