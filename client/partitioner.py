"""Which partition a key belongs to: Kafka's own murmur2, so that all clients agree on it. Pure."""

from __future__ import annotations

import functools
import struct


@functools.lru_cache(maxsize=65_536)
def murmur2(key: bytes) -> int:
    """Kafka's hash of a serialized key, as a positive 31-bit number.

    >>> murmur2(b"user-1234567890ab")
    752553288
    """
    multiply, mask = 0x5BD1E995, 0xFFFFFFFF
    length = len(key)
    value = 0x9747B28C ^ length
    whole = length & ~3
    for (word,) in struct.iter_unpack("<I", key[:whole]):
        word = (word * multiply) & mask
        word ^= word >> 24
        word = (word * multiply) & mask
        value = ((value * multiply) & mask) ^ word
    rest = key[whole:]
    if rest:
        value ^= int.from_bytes(rest, "little")
        value = (value * multiply) & mask
    value ^= value >> 13
    value = (value * multiply) & mask
    value ^= value >> 15
    return value & 0x7FFFFFFF


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of a keyed record."""
    return murmur2(key) % partitions
