"""Which partition a record goes to, as Kafka's Java client decides it. Pure."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache

Partitioner = Callable[[bytes, int], int]

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit hash of Kafka's default partitioner (MurmurHash 2 with its seed), unsigned.

    >>> murmur2(b"user-1234567890ab")
    752553288
    """
    size = len(data)
    value = 0x9747B28C ^ size
    words = size >> 2
    for word in struct.unpack_from(f"<{words}I", data):
        word = word * _M & _MASK
        word ^= word >> 24
        value = (value * _M & _MASK) ^ (word * _M & _MASK)
    rest = data[words << 2 :]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * _M & _MASK
    value ^= value >> 13
    value = value * _M & _MASK
    return value ^ value >> 15


@lru_cache(maxsize=65536)
def by_murmur2(key: bytes, partitions: int) -> int:
    """As Java clients and kafka-python place keys: the hash without its sign, modulo the partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def by_crc32(key: bytes, partitions: int) -> int:
    """As librdkafka places keys by default ("consistent_random"), but for the empty key, which it leaves to chance."""
    return zlib.crc32(key) % partitions


class Sticky:
    """Where records without a key go: one partition until its batch is closed, then the next (KIP-480).

    It begins anywhere, so that many producers do not all begin at partition 0; from there it goes round instead of by
    chance, which is as even.
    """

    def __init__(self, begin: Callable[[int], int] = random.randrange) -> None:
        self._begin = begin
        self.current: dict[str, int] = {}  # by topic

    def partition(self, topic: str, partitions: int) -> int:
        """The partition for the next record without a key."""
        current = self.current.get(topic)
        if current is None or current >= partitions:
            current = self.current[topic] = self._begin(partitions)
        return current

    def batch_closed(
        self, topic: str, partition: int, partitions: int, usable: Callable[[int], bool] = lambda _: True
    ) -> None:
        """This partition's batch was closed: stick to the next one, which is ``usable`` if any is."""
        if self.current.get(topic) != partition:
            return
        others = [(partition + step) % partitions for step in range(1, partitions)]
        if others:
            self.current[topic] = next(filter(usable, others), others[0])
