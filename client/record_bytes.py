"""A producer's records as the bytes of a batch, fast. Pure.

The layout is in ``logeion.wire.records``. Lengths and deltas below 8,192 come from a table of their varints, so an
ordinary record costs a few look-ups and one join instead of a call for each number.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from logeion.wire.batch import BatchHeader, pack_batch
from logeion.wire.compression import compress

Headers = Sequence[tuple[str, bytes | None]]
# timestamp in ms, key, value, headers
Entry = tuple[int, bytes | None, bytes | None, Headers]

BATCH_OVERHEAD = 61


def _varint(value: int) -> bytes:
    value = value << 1 if value >= 0 else (-value << 1) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = 8192
_TABLE = [_varint(number) for number in range(_SMALL)]


def varint(value: int) -> bytes:
    """A zigzag varint."""
    return _TABLE[value] if 0 <= value < _SMALL else _varint(value)


def size_bound(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """No less than what this record takes in a batch, uncompressed."""
    size = 24 + (len(key) if key else 0) + (len(value) if value else 0)
    for name, content in headers:
        size += 10 + 4 * len(name) + (len(content) if content else 0)
    return size


def checked_headers(headers: Any) -> Headers:
    """A copy that surely can be encoded, which happens later and elsewhere. Raises TypeError, ValueError."""
    found: list[tuple[str, bytes | None]] = []
    if isinstance(headers, str | bytes | dict):
        raise TypeError(f"headers are a list of (name, value), not {type(headers).__name__}")
    for header in headers:
        try:
            name, content = header
        except (TypeError, ValueError):
            raise TypeError(f"a header is a pair (name, value), not {header!r}") from None
        if not isinstance(name, str):
            raise TypeError(f"a header's name is a str, not {type(name).__name__}: {name!r}")
        if not name.isascii():
            try:
                name.encode()
            except UnicodeEncodeError as cause:
                raise ValueError(f"the header's name {name!r} has no UTF-8 form: {cause}") from None
        if content is not None and type(content) is not bytes:
            if not isinstance(content, bytearray | memoryview):
                raise TypeError(f"header {name!r}: its value is bytes or None, not {type(content).__name__}")
            content = bytes(content)
        found.append((name, content))
    return found


def checked_timestamp(timestamp_ms: Any) -> int:
    """Raises TypeError, ValueError."""
    try:
        stamp = operator.index(timestamp_ms)
    except TypeError:
        raise TypeError(f"timestamp_ms is a whole number, not {timestamp_ms!r}: try int(…)") from None
    if not 0 <= stamp < 1 << 63:
        raise ValueError(f"timestamp_ms={stamp}: it is from 0 to 2^63 - 1, in milliseconds since 1970")
    return stamp


def encode_entries(entries: Sequence[Entry]) -> tuple[bytes, int, int]:
    """(the records' bytes, first timestamp, highest timestamp); offsets count from 0."""
    base = entries[0][0]
    highest = base
    table, small = _TABLE, _SMALL
    join = b"".join
    pieces: list[bytes] = []
    push = pieces.append
    for delta, (timestamp, key, value, headers) in enumerate(entries):
        if timestamp > highest:
            highest = timestamp
        since = timestamp - base
        stamp = table[since] if 0 <= since < small else _varint(since)
        number = table[delta] if delta < small else _varint(delta)
        tail = _headers(headers) if headers else b"\0"
        if key is None:
            key_size, key = b"\1", b""
        else:
            size = len(key)
            key_size = table[size] if size < small else _varint(size)
        if value is None:
            value_size, value = b"\1", b""
        else:
            size = len(value)
            value_size = table[size] if size < small else _varint(size)
        record = join((b"\0", stamp, number, key_size, key, value_size, value, tail))
        size = len(record)
        push(table[size] if size < small else _varint(size))
        push(record)
    return join(pieces), base, highest


def _headers(headers: Headers) -> bytes:
    pieces = [varint(len(headers))]
    for name, content in headers:
        key = name.encode()
        pieces += (varint(len(key)), key)
        pieces += (b"\1",) if content is None else (varint(len(content)), content)
    return b"".join(pieces)


class Encoded:
    """A closed batch's records, encoded and compressed once; its header is written for each producer and sequence."""

    base_timestamp: int
    max_timestamp: int

    __slots__ = ("attributes", "base_timestamp", "body", "count", "max_timestamp")

    def __init__(self, entries: Sequence[Entry], codec: int) -> None:
        body, self.base_timestamp, self.max_timestamp = encode_entries(entries)
        self.body: bytes = compress(codec, body) if codec else body
        self.attributes: int = codec
        self.count: int = len(entries)

    def batch(self, producer_id: int, producer_epoch: int, base_sequence: int) -> bytes:
        """The whole batch; -1, -1, -1 for a producer without an id."""
        header = BatchHeader(
            base_offset=0,
            length=0,
            leader_epoch=-1,
            magic=2,
            crc=0,
            attributes=self.attributes,
            last_offset_delta=self.count - 1,
            base_timestamp=self.base_timestamp,
            max_timestamp=self.max_timestamp,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=base_sequence,
            count=self.count,
        )
        return pack_batch(header, self.body)
