"""Idempotent producers of which this gateway has refused a batch, and what may not go on behind it. Pure.

A client sends up to five batches without waiting. When the first is refused because no leader serves, and one serves
before the others have come, those would go through: to a log that says OUT_OF_ORDER_SEQUENCE_NUMBER, which some clients
(librdkafka) take for a loss and send everything again under a new producer epoch, or to a log that does not know the
producer and takes any sequence for its first. So whoever was refused is refused until it sends something again that it
had sent before: then it has seen the refusal, and it begins with the oldest it has.

A client that has been elsewhere meanwhile is refused once more than needed, unless ``AGES`` have passed.
"""

from __future__ import annotations

from collections.abc import Hashable

# Seconds between two ``age``; what is as many of them old is forgotten. A process that is stopped does not age.
AGE_S = 1.0
AGES = 5
# Producers in all, and sequences of one; a client has five batches on the way.
PRODUCERS_MAX = 10_000
SEQUENCES_MAX = 64
# After the highest sequence comes 0.
SEQUENCES = 2**31

Producer = tuple[Hashable, int, int]
"""A partition as its client names it, the producer's id and its epoch."""


class _Refused:
    __slots__ = ("age", "sequences")

    def __init__(self) -> None:
        self.age = 0
        self.sequences: set[int] = set()


def _follows(sequence: int, other: int) -> bool:
    """Whether a producer sends this one after the other."""
    return 0 < (sequence - other) % SEQUENCES < SEQUENCES // 2


class Refusals:
    """Of all partitions of one gateway."""

    def __init__(self) -> None:
        self._refused: dict[Producer, _Refused] = {}

    def __len__(self) -> int:
        return len(self._refused)

    def note(self, producer: Producer, sequence: int) -> None:
        """The batch of this producer that begins with this sequence was refused."""
        entry = self._refused.setdefault(producer, _Refused())
        entry.age = 0
        if len(entry.sequences) < SEQUENCES_MAX:
            entry.sequences.add(sequence)
        if len(self._refused) > PRODUCERS_MAX:
            del self._refused[next(iter(self._refused))]

    def behind(self, producer: Producer, sequence: int) -> bool:
        """Whether this batch was sent behind one that was refused, before its client could know; then it is refused."""
        entry = self._refused.get(producer)
        if entry is None:
            return False
        if sequence in entry.sequences or len(entry.sequences) >= SEQUENCES_MAX:
            del self._refused[producer]
            return False
        if not self.before(producer, sequence):
            # The oldest that the client has: of a connection that it has given up, only later ones were refused.
            return False
        # What follows this one was refused before it, so to send that again says nothing of having seen this refusal.
        entry.sequences = {refused for refused in entry.sequences if _follows(sequence, refused)}
        return True

    def before(self, producer: Producer, sequence: int) -> bool:
        """Whether a batch that this producer had sent before this one was refused; for one that was taken already."""
        entry = self._refused.get(producer)
        if entry is None:
            return False
        return any(_follows(sequence, refused) for refused in entry.sequences)

    def grow_older(self) -> None:
        """``AGE_S`` have passed since the last time."""
        for producer, entry in list(self._refused.items()):
            entry.age += 1
            if entry.age >= AGES:
                del self._refused[producer]
