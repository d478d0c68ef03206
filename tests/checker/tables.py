"""What all judges of one key share: who wrote a value, who first read it, at which offsets it stood, in which order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Set
from typing import Any

from tests.checker import epochs
from tests.checker.history import EPOCHS, POLLS, SENDS, Assigned, Poll, Send, Value


class Processes:
    """Which keys a process had chosen when, and how."""

    def __init__(self, assigned: list[Assigned]) -> None:
        self._of: dict[int | str, tuple[list[float], list[Assigned]]] = {}
        for entry in sorted(assigned, key=lambda entry: entry.t):
            times, entries = self._of.setdefault(entry.proc, ([], []))
            times.append(entry.t)
            entries.append(entry)

    @property
    def none(self) -> bool:
        return not self._of

    def count(self, proc: int | str, t: float) -> int:
        """How often the process had chosen keys by ``t``."""
        return bisect_right(self._of[proc][0], t) if proc in self._of else 0

    def subscribed(self, proc: int | str, t: float) -> bool:
        """Whether its last choice by ``t`` was a subscription."""
        count = self.count(proc, t)
        return count > 0 and self._of[proc][1][count - 1].subscribed

    def kept(self, proc: int | str, key: str, before: int, now: int) -> bool:
        """Whether each choice from number ``before`` to ``now`` still had the key."""
        return before == now or all(key in entry.keys for entry in self._of[proc][1][before:now])


class Tables:
    """One key's writers, readers and log.

    Attributes: ``writer`` value -> send; ``seen`` value -> when the first ok poll of it returned; ``log`` offset ->
    value, with the further values of an offset in ``conflicts``; ``place`` value -> offset, with all offsets of a value
    that stands at several in ``places``; ``order`` the offsets; ``index`` value -> its (lowest) place in ``order``;
    ``last`` the highest place of the values in ``places``; ``rebound`` acknowledged (offset, value, op, read at);
    ``corrupt`` whether a poll returned a record with a bad checksum. ``rich`` are the operations that both wrote and
    read, or wrote twice; of the ``unsure`` (unanswered, on several keys) those in ``committed`` were seen somewhere.
    """

    def __init__(
        self,
        key: str,
        events: tuple[list[Any], ...],
        *,
        committed: Set[int] = frozenset(),
        unsure: Set[int] = frozenset(),
        rich: Set[int] = frozenset(),
    ) -> None:
        self.key = key
        self.rich = rich
        self.corrupt = False
        self.sends: list[Send] = events[SENDS]
        self.polls: list[Poll] = events[POLLS]
        self.writer: dict[Value, Send] = {}
        self.seen: dict[Value, float] = {}
        self.log: dict[int, Value] = {}
        self.conflicts: dict[int, set[Value]] = {}
        self.place: dict[Value, int] = {}
        self.places: dict[Value, set[int]] = {}
        self.rebound: list[tuple[int, Value, int, int]] = []
        self.failed: set[Value] = set()
        # (t_ret, op, highest offset or -1, epoch or -1) of the acknowledged sends, in the order of their answers
        self.acked: list[tuple[float, int, int, int]] = []
        self._read_polls()
        self.read_values = set(self.place)
        if events[EPOCHS]:
            self.sends = epochs.told(self.sends, self.log, self.place, events)
        self._committed = committed
        self._unsure = unsure
        self._read_sends()
        self.order = sorted(self.log)
        self.index: dict[Value, int] = {}
        self.last: dict[Value, int] = {}
        self._number()

    def _read_polls(self) -> None:
        log, place, seen = self.log, self.place, self.seen
        for _, _, _, t_ret, _, kind, records, _, _, _ in self.polls:
            ok = kind == "ok"
            for offset, value in records:
                if value is None:
                    self.corrupt = True
                    continue
                if ok:
                    before = seen.get(value)
                    if before is None or t_ret < before:
                        seen[value] = t_ret
                if log.get(offset) != value or place.get(value) != offset:
                    self._put(offset, value)

    def _put(self, offset: int, value: Value) -> None:
        there = self.log.setdefault(offset, value)
        if there != value:
            self.conflicts.setdefault(offset, {there}).add(value)
        at = self.place.setdefault(value, offset)
        if at != offset:
            self.places.setdefault(value, {at}).add(offset)

    def _read_sends(self) -> None:
        log, place, writer, acked = self.log, self.place, self.writer, self.acked
        for send in self.sends:
            _, _, op, t_ret, _, kind, pairs, epoch, _ = send
            for _, value in pairs:
                writer[value] = send
            if kind == "fail":
                self.failed.update(value for _, value in pairs)
                continue
            if kind == "info" and not self.committed(send):
                continue
            high = -1
            for offset, value in pairs:
                if offset is None:
                    continue
                if offset > high:
                    high = offset
                if log.get(offset) != value or place.get(value) != offset:
                    at = place.get(value)
                    if kind == "ok" and at is not None and offset not in self.places.get(value, (at,)):
                        self.rebound.append((offset, value, op, at))
                    self._put(offset, value)
            if kind == "ok":
                acked.append((t_ret, op, high, -1 if epoch is None else epoch))
        acked.sort()

    def committed(self, send: Send) -> bool:
        """Acknowledged, or seen by an ok poll in this key or, for an operation on several keys, in any."""
        if send[5] != "info":
            return send[5] == "ok"
        if send[2] in self._unsure and send[2] in self._committed:
            return True
        return any(value in self.seen for _, value in send[6])

    def _number(self) -> None:
        log, index = self.log, self.index
        if not self.conflicts and not self.places:
            for number, offset in enumerate(self.order):
                index[log[offset]] = number
            return
        for number, offset in enumerate(self.order):
            for value in self.conflicts.get(offset, (log[offset],)):
                index.setdefault(value, number)
                if value in self.places:
                    self.last[value] = number

    def place_of(self, offset: int, value: Value) -> int:
        """The place of a polled record: of its value, and for a duplicate of its own offset; -1 if in no order."""
        if value in self.places:
            return bisect_left(self.order, offset)
        return self.index.get(value, -1)

    def values_at(self, number: int) -> Iterator[Value]:
        """The values of the place ``number`` of the order."""
        offset = self.order[number]
        yield from self.conflicts.get(offset, (self.log[offset],))

    def between(self, low: int, high: int) -> tuple[Value, ...]:
        """At most ten values strictly between two places."""
        return tuple(self.log[offset] for offset in self.order[low + 1 : min(high, low + 11)])


def seen_unsure(events: tuple[list[Any], ...], unsure: Set[int]) -> set[int]:
    """Which of these unanswered operations on several keys an ok poll of this key has proved committed."""
    values = {value: send[2] for send in events[SENDS] if send[2] in unsure for _, value in send[6]}
    if not values:
        return set()
    return {values[value] for poll in events[POLLS] if poll[5] == "ok" for _, value in poll[6] if value in values}
