"""Kafka's sparse indexes: offset index (relative offset, position) and time index (timestamp, relative offset).

An entry of the offset index names a batch's *last* offset and the position at which that batch begins; an entry of the
time index says that nothing at or before its offset is newer than its timestamp. Both only grow, so a search reads a
few blocks of the file and keeps nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

OFFSET_ENTRY = struct.Struct(">iI")
TIME_ENTRY = struct.Struct(">qi")

# Entries read at once at the end of a search: one page of an offset index.
_BLOCK = 512

ReadAt = Callable[[int, int], bytes]


def rank(read: ReadAt, entry: struct.Struct, count: int, key: int, *, field: int = 0) -> tuple[int, tuple[int, int]]:
    """How many of ``count`` entries have a ``field`` not above ``key``, and the last of them ((-1, -1) if none).

    ``read(size, position)`` reads the file. What lies past its end counts as above every key: a writer may be cutting
    the file. The tail is looked at first, for that is where most readers are.
    """
    size = entry.size
    low, high = 0, count
    probe = high - _BLOCK
    while high - low > _BLOCK:
        data = read(size, probe * size)
        if len(data) == size and entry.unpack(data)[field] <= key:
            low = probe
        else:
            high = probe
        probe = (low + high) // 2
    data = read((high - low) * size, low * size)
    first, last = 0, len(data) // size
    unpack = entry.unpack_from
    while first < last:
        middle = (first + last) // 2
        if unpack(data, middle * size)[field] <= key:
            first = middle + 1
        else:
            last = middle
    if first == 0:
        return low, (-1, -1)
    one, two = unpack(data, (first - 1) * size)
    return low + first, (one, two)


def floor(read: ReadAt, entry: struct.Struct, count: int, key: int, *, field: int = 0) -> tuple[int, int] | None:
    """The last of ``count`` entries whose ``field`` is not above ``key``; None if the first one is above it."""
    number, found = rank(read, entry, count, key, field=field)
    return found if number else None


class IndexBuilder:
    """Both indexes of a segment in the making, by the same rule as an append's."""

    def __init__(self, base: int, interval: int) -> None:
        self.base = base
        self.interval = interval
        self.offsets: bytearray = bytearray()
        self.times: bytearray = bytearray()
        self.newest: tuple[int, int] = (-1, base)
        self.indexed_time: int = -1
        self.since: int = 0
        self.first_timestamp: int | None = None

    def add(self, last_offset: int, position: int, size: int, max_timestamp: int) -> None:
        """The next batch, which begins at ``position``."""
        if self.first_timestamp is None:
            self.first_timestamp = max_timestamp
        if max_timestamp > self.newest[0]:
            self.newest = (max_timestamp, last_offset)
        if self.since > self.interval:
            self.offsets += OFFSET_ENTRY.pack(last_offset - self.base, position)
            self._add_time()
            self.since = 0
        self.since += size

    def finish(self) -> None:
        """The final time entry, as a sealed segment has it."""
        self._add_time()

    def _add_time(self) -> None:
        if self.newest[0] > self.indexed_time:
            self.times += TIME_ENTRY.pack(self.newest[0], self.newest[1] - self.base)
            self.indexed_time = self.newest[0]
