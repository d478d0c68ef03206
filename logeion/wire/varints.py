"""Variable-length integers: unsigned (lengths, tags) and zigzag (inside record batches)."""

from __future__ import annotations

from .error_base import MalformedError, TruncatedError


def uvarint(value: int) -> bytes:
    """The bytes of an unsigned varint, seven bits each, low ones first.

    >>> uvarint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_uvarint(data: memoryview, first: int, at: int) -> tuple[int, int]:
    """The varint whose first byte, above 127, was read already; returns (value, position after it).

    Raises MalformedError past 32 bits, which no length and no tag needs.
    """
    value, shift = first & 127, 7
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 28:
            raise MalformedError(f"varint longer than 5 bytes at byte {at}")
    if value > 0x7FFFFFFF:
        raise MalformedError(f"varint of {value} at byte {at}: no length is that long")
    return value, at


def skip_tags(data: memoryview, count: int, at: int, end: int) -> int:
    """The position after ``count`` tagged fields that nobody knows (KIP-482: they are skipped)."""
    if count > 127:
        count, at = read_uvarint(data, count, at)
    if 2 * count > end - at:
        raise TruncatedError(f"{count} tagged fields announced at byte {at}, {end - at} bytes left")
    for _ in range(count):
        tag = data[at]
        at += 1
        if tag > 127:
            tag, at = read_uvarint(data, tag, at)
        size = data[at]
        at += 1
        if size > 127:
            size, at = read_uvarint(data, size, at)
        if size > end - at:
            raise TruncatedError(f"tagged field {tag} of {size} bytes at byte {at}, {end - at} bytes left")
        at += size
    return at
