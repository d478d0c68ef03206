"""A voter's log as its machine sees it: a snapshot and the entries that follow it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from .messages import Entry, Snapshot, VoterId


def continued(snapshot: Snapshot, entries: Sequence[Entry]) -> list[Entry]:
    """The stored entries that belong to the snapshot's history: those it continues with and the kept ones before, or
    none if the log has another history.

    A crash between storing a snapshot and cutting the log leaves either. Raises ``ValueError`` on a gap.
    """
    if any(entry.end == snapshot.end and entry.term == snapshot.term for entry in entries):
        return list(entries)
    if entries and entries[0].offset > snapshot.end:
        raise ValueError(f"the log starts at {entries[0].offset} but its snapshot ends at {snapshot.end}")
    return list(entries) if entries and entries[0].offset == snapshot.end else []


class RaftLog:
    """Entries are in memory until they are compacted: metadata is small, and its snapshots are cut by size.

    ``start`` <= ``snapshot.end`` <= ``end``: a tail of what the snapshot covers may be kept, for voters that are only
    a little behind.
    """

    def __init__(self, snapshot: Snapshot, entries: Sequence[Entry] = ()) -> None:
        self.snapshot: Snapshot = snapshot
        self.entries: list[Entry] = []
        self._ends: list[int] = []
        # What ends where the kept entries begin: (end, term).
        self._base = (snapshot.end, snapshot.term)
        # Where each set of voters begins: (end of the entry that states it, the set), ascending.
        self._voters = [(snapshot.end, snapshot.voters)]
        if entries and entries[0].offset < snapshot.end:
            # What came before the first one is not known; so that one only marks the place.
            self._base = (entries[0].end, entries[0].term)
            entries = entries[1:]
        self.append(entries)

    @property
    def start(self) -> int:
        """The first offset whose entry is there."""
        return self._base[0]

    @property
    def end(self) -> int:
        """The offset that the next entry begins at."""
        return self._ends[-1] if self._ends else self._base[0]

    @property
    def last_term(self) -> int:
        return self.entries[-1].term if self.entries else self._base[1]

    @property
    def voters(self) -> tuple[VoterId, ...]:
        """The newest set of voters, in force as soon as it is in the log, committed or not (thesis 4.1)."""
        return self._voters[-1][1]

    @property
    def voters_end(self) -> int:
        """The end of the entry that states ``voters``."""
        return self._voters[-1][0]

    @property
    def voters_before(self) -> tuple[VoterId, ...]:
        """The set before ``voters``; the same, if a snapshot has made it forgotten."""
        return self._voters[-2:][0][1]

    def voters_at(self, end: int) -> tuple[VoterId, ...]:
        """The set in force for the entries before ``end``."""
        return next(voters for at, voters in reversed(self._voters) if at <= end)

    def term_at(self, end: int) -> int | None:
        """The term of the entry that ends there; ``None`` where none ends."""
        if end == self._base[0]:
            return self._base[1]
        at = bisect_left(self._ends, end)
        return self.entries[at].term if at < len(self._ends) and self._ends[at] == end else None

    def append(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            assert entry.offset == self.end and entry.count > 0 and entry.term >= self.last_term, entry
            self.entries.append(entry)
            self._ends.append(entry.end)
            if entry.voters is not None and entry.end > self.snapshot.end:
                self._voters.append((entry.end, entry.voters))

    def truncate(self, end: int) -> None:
        """Cut so that the log ends at ``end``, not before the snapshot's; with the entries goes what they said about
        voters."""
        keep = bisect_right(self._ends, end)
        del self.entries[keep:], self._ends[keep:]
        while self._voters[-1][0] > end:
            self._voters.pop()

    def read(self, start: int, end: int, bytes_max: int | None = None) -> list[Entry]:
        """Entries from ``start``, a boundary, to ``end``; at least one, then as many as fit in ``bytes_max``."""
        at = bisect_right(self._ends, start)
        stop = bisect_right(self._ends, end)
        found = self.entries[at:stop]
        if bytes_max is not None:
            size = 0
            for number, entry in enumerate(found):
                size += len(entry.data)
                if size > bytes_max and number:
                    return found[:number]
        return found

    def newest(self, end: int, term: int) -> tuple[int, int] | None:
        """The last (end, term) at or before ``end`` of a term not after ``term``; ``None`` if it is compacted.

        Two logs cannot agree beyond it, so one question skips a whole term of conflict (paper 5.3, last part).
        """
        at = bisect_right(self._ends, end)
        while at and self.entries[at - 1].term > term:
            at -= 1
        if at:
            return self._ends[at - 1], self.entries[at - 1].term
        if self._base[0] <= end and self._base[1] <= term:
            return self._base
        return None

    def install(self, snapshot: Snapshot, tail: int) -> bool:
        """Let the snapshot stand for what is before its end; False if the log was another history and is gone.

        Of what the snapshot covers, entries that end after ``tail`` stay.
        """
        if self.term_at(snapshot.end) == snapshot.term:
            drop = bisect_right(self._ends, min(tail, snapshot.end))
            if drop:
                self._base = (self._ends[drop - 1], self.entries[drop - 1].term)
                del self.entries[:drop], self._ends[:drop]
            later = [(at, voters) for at, voters in self._voters if at > snapshot.end]
            self._voters = [(snapshot.end, snapshot.voters), *later]
            self.snapshot = snapshot
            return True
        self.entries, self._ends = [], []
        self._base = (snapshot.end, snapshot.term)
        self._voters = [(snapshot.end, snapshot.voters)]
        self.snapshot = snapshot
        return False
