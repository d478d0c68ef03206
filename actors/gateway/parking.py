"""Fetches that wait for records: by partition and offset, and by deadline. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from sortedcontainers import SortedDict, SortedList

Call = TypeVar("Call", bound=Hashable)
Partition = Hashable


class Parking(Generic[Call]):
    """Parked calls. Each waits at some partitions for the watermark to pass an offset, and until a deadline."""

    def __init__(self) -> None:
        self._number = 0
        # deadline -> calls by number: a dict keeps their order
        self._deadlines: SortedDict[tuple[int, int], Call] = SortedDict()
        self._offsets: dict[Partition, SortedList[tuple[int, int]]] = {}
        self._calls: dict[int, tuple[Call, int, list[tuple[Partition, int]]]] = {}
        self._numbers: dict[Call, int] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, call: Call) -> bool:
        return call in self._numbers

    def park(self, call: Call, deadline_ms: int, waits: Iterable[tuple[Partition, int]]) -> None:
        """Wait until the watermark of one of these partitions is above its offset, or until the deadline.

        A call has one place: parking it again gives up its earlier one.
        """
        self.leave(call)
        self._number += 1
        number = self._number
        kept = list(waits)
        self._calls[number] = (call, deadline_ms, kept)
        self._numbers[call] = number
        self._deadlines[deadline_ms, number] = call
        for partition, offset in kept:
            offsets = self._offsets.get(partition)
            if offsets is None:
                offsets = self._offsets[partition] = SortedList()
            offsets.add((offset, number))

    def leave(self, call: Call) -> bool:
        """This call no longer waits; False if it did not."""
        number = self._numbers.pop(call, None)
        if number is None:
            return False
        _call, deadline_ms, waits = self._calls.pop(number)
        del self._deadlines[deadline_ms, number]
        for partition, offset in waits:
            offsets = self._offsets[partition]
            offsets.remove((offset, number))
            if not offsets:
                del self._offsets[partition]
        return True

    def lowest(self, partition: Partition) -> int | None:
        """The lowest offset anyone waits for here: where the one notice of this partition is to be armed."""
        offsets = self._offsets.get(partition)
        return offsets[0][0] if offsets else None

    def passed(self, partition: Partition, high_watermark: int) -> list[Call]:
        """The watermark is here now: the calls that waited for less, in the order of their offsets. They leave."""
        offsets = self._offsets.get(partition)
        if not offsets:
            return []
        return self._leaving(number for _offset, number in offsets.irange(maximum=(high_watermark,)))

    def all_at(self, partition: Partition) -> list[Call]:
        """Everyone who waits at this partition; they leave (its leader is gone for good, or its topic is)."""
        offsets = self._offsets.get(partition)
        if not offsets:
            return []
        return self._leaving(number for _offset, number in offsets)

    def due(self, now_ms: int) -> list[Call]:
        """The calls whose deadline has come, earliest first. They leave."""
        late: list[Call] = []
        for (deadline_ms, _number), call in self._deadlines.items():
            if deadline_ms > now_ms:
                break
            late.append(call)
        for call in late:
            self.leave(call)
        return late

    def _leaving(self, numbers: Iterable[int]) -> list[Call]:
        # A client may name a partition twice; its call is still one.
        woken = [self._calls[number][0] for number in dict.fromkeys(numbers)]
        for call in woken:
            self.leave(call)
        return woken

    @property
    def next_deadline(self) -> int | None:
        """When ``due`` has something to say."""
        return self._deadlines.keys()[0][0] if self._deadlines else None
