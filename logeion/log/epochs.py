"""Which offset each leader epoch began at: the cache, and Kafka's ``leader-epoch-checkpoint`` file (KIP-101, KIP-279).

Pure: the log reads and writes the file.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

from logeion.wire.errors import MalformedError

UNKNOWN = -1


class EpochCache:
    """(epoch, start offset) in order; both grow strictly."""

    def __init__(self, entries: list[tuple[int, int]] | None = None) -> None:
        self.entries: list[tuple[int, int]] = list(entries or [])

    @property
    def latest(self) -> int:
        """The newest epoch, -1 when there is none."""
        return self.entries[-1][0] if self.entries else UNKNOWN

    def assign(self, epoch: int, start: int) -> bool:
        """Note that ``epoch`` begins at ``start``; returns whether anything changed.

        Entries of the same or a higher epoch, or of the same or a higher offset, give way (they were of a history that
        has no record left).
        """
        if self.entries and self.entries[-1][0] == epoch and self.entries[-1][1] <= start:
            return False
        while self.entries and (self.entries[-1][0] >= epoch or self.entries[-1][1] >= start):
            self.entries.pop()
        self.entries.append((epoch, start))
        return True

    def end_of(self, epoch: int, log_end: int) -> tuple[int, int]:
        """The largest epoch not above ``epoch`` and the offset after its last record; (-1, -1) when unknown."""
        if epoch == UNKNOWN or not self.entries:
            return UNKNOWN, UNKNOWN
        if epoch == self.entries[-1][0]:
            return epoch, log_end
        above = bisect_right(self.entries, (epoch, 2**63))
        if above == len(self.entries):
            return UNKNOWN, UNKNOWN
        if above == 0:
            return epoch, self.entries[0][1]
        return self.entries[above - 1][0], self.entries[above][1]

    def epoch_at(self, offset: int) -> int:
        """The epoch of the record at ``offset``, -1 when it lies before all that is known."""
        found = UNKNOWN
        for epoch, start in reversed(self.entries):
            if start <= offset:
                return epoch
        return found

    def truncate_end(self, end: int) -> bool:
        """Forget epochs that begin at ``end`` or later; returns whether anything changed."""
        before = len(self.entries)
        while self.entries and self.entries[-1][1] >= end:
            self.entries.pop()
        return len(self.entries) != before

    def truncate_start(self, start: int) -> bool:
        """Forget epochs that ended before ``start``; the one that covers it now begins there."""
        covering = None
        kept = []
        for epoch, first in self.entries:
            if first <= start:
                covering = epoch
            else:
                kept.append((epoch, first))
        if covering is not None:
            kept.insert(0, (covering, start))
        changed = kept != self.entries
        self.entries = kept
        return changed

    def encode(self) -> bytes:
        """The file's text: version 0, the count, one ``epoch offset`` a line."""
        lines = ["0", str(len(self.entries)), *(f"{epoch} {start}" for epoch, start in self.entries)]
        return ("\n".join(lines) + "\n").encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> EpochCache:
        """The cache of a file's text; raises ``MalformedError`` for anything that Kafka would not have written."""
        try:
            lines = data.decode("ascii").split("\n")
            version, count = int(lines[0]), int(lines[1])
            rows = [tuple(map(int, line.split(" "))) for line in lines[2 : 2 + count]]
            rest = lines[2 + count :]
        except (ValueError, IndexError, UnicodeDecodeError):
            raise MalformedError("not a leader epoch checkpoint") from None
        entries = [(row[0], row[1]) for row in rows if len(row) == 2]
        if version != 0 or len(entries) != count or any(rest):
            raise MalformedError("not a leader epoch checkpoint: version or count is wrong")
        for (epoch, start), (later_epoch, later_start) in pairwise(entries):
            if epoch >= later_epoch or start >= later_start:
                raise MalformedError(f"leader epochs {epoch} and {later_epoch} are out of order")
        return cls(entries)
