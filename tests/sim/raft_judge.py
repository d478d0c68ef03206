"""What must hold of the metadata quorum after every step, whatever happened (paper, figure 3)."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from logeion.actors.controller.raft.effects import AppendLog, Effects
from logeion.actors.controller.raft.messages import AskVote, Entry, Snapshot, VoteAnswered
from logeion.actors.controller.raft.roles import Leader
from tests.sim.engine import Violated

if TYPE_CHECKING:
    from tests.sim.raft_world import Host, World


def chained(digest: int, entry: Entry) -> int:
    """A state machine's state: it depends on every entry and on their order."""
    return zlib.crc32(b"%d:%d:%d:" % (digest, entry.offset, entry.count) + entry.data)


class Judge:
    """``history`` is what was ever committed, first come first kept; all else is compared with it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.history: list[Entry] = []
        self.at: dict[int, Entry] = {}
        self.digests: dict[int, int] = {0: 0}
        self.leaders: dict[int, int] = {}
        self.votes: dict[tuple[int, int], int] = {}
        self.written: dict[tuple[int, int], tuple[Entry, int]] = {}
        self.committed: dict[int, int] = {}
        self.installed = 0
        self.end = 0
        self.last_term = 0

    def started(self, host: Host) -> None:
        """A start may forget what was committed, and learns it again."""
        assert host.raft is not None
        self.committed[host.number] = host.raft.committed
        self._check_restored(host, host.disk.snapshot)

    def forgot(self, number: int) -> None:
        """With its disk went its votes: it may give them again."""
        self.votes = {vote: to for vote, to in self.votes.items() if vote[1] != number}

    def voted(self, host: Host, asked: AskVote, out: Effects) -> None:
        """A vote, or the promise of one, goes only to a log that has all that the voter's has."""
        assert host.raft is not None
        for send in out.after:
            answer = send.message
            if not isinstance(answer, VoteAnswered) or not answer.granted:
                continue
            log = host.raft.log
            if (asked.last_term, asked.end) < (log.last_term, log.end):
                raise Violated(f"{host.number} grants {asked} though its own log ends at {log.end} in {log.last_term}")

    def stepped(self, host: Host, out: Effects) -> None:
        """The step's writes are synced; nothing that depends on them has left."""
        raft = host.raft
        assert raft is not None
        for write in out.writes:
            if isinstance(write, AppendLog):
                self._check_matching(host, write.entries)
        for send in out.after:
            answer = send.message
            if isinstance(answer, VoteAnswered) and answer.granted and not answer.pre:
                first = self.votes.setdefault((answer.asked, host.number), send.to)
                if first != send.to:
                    raise Violated(f"{host.number} votes for {first} and {send.to} in term {answer.asked}")
        if raft.committed < self.committed[host.number] or raft.log.end < raft.committed:
            raise Violated(
                f"{host.number}: commit index from {self.committed[host.number]} to {raft.committed}, "
                f"its log ends at {raft.log.end}"
            )
        self.committed[host.number] = raft.committed
        if isinstance(raft.role, Leader):
            self._check_leader(host)
            if out.committed and out.committed[-1].term != raft.term:
                raise Violated(f"{host.number} leads term {raft.term} and commits {out.committed[-1]} by count alone")
        for what in out.committed:
            if isinstance(what, Snapshot):
                self.installed += 1
                self._check_restored(host, what)
            else:
                self._check_committed(host, what)
            host.apply(what)
            if self.digests.get(host.applied) != host.digest:
                raise Violated(f"{host.number} applied {what} and is in another state than the others were")

    def _check_matching(self, host: Host, entries: list[Entry]) -> None:
        """Log matching: same end and term, same entry, and the same entry before it."""
        log = host.raft.log if host.raft is not None else None
        assert log is not None
        for entry in entries:
            before = log.term_at(entry.offset)
            if before is None:
                continue  # covered by a snapshot since
            known = self.written.setdefault((entry.end, entry.term), (entry, before))
            if known != (entry, before):
                raise Violated(f"{host.number} holds {entry} after term {before}, another voter {known}")

    def _check_leader(self, host: Host) -> None:
        raft = host.raft
        assert raft is not None
        known = self.leaders.get(raft.term)
        if known is None:
            self.world.note(f"{host.number} leads term {raft.term}")
            self.leaders[raft.term] = host.number
            # One elected late, when a newer term has begun to commit, owes nothing of that term.
            if raft.term > self.last_term and not self._is_complete(host):
                raise Violated(f"{host.number} leads term {raft.term} without what is committed before {self.end}")
        elif known != host.number:
            raise Violated(f"{known} and {host.number} both lead term {raft.term}")
        for other in self.world.leaders():
            assert other.raft is not None
            old = min(host, other, key=lambda each: each.raft.term if each.raft else 0)
            assert old.raft is not None
            if other is not host and old.raft.lease_until(old.now) > old.now:
                raise Violated(f"{old.number} still has its lease of term {old.raft.term}, yet another voter leads")

    def _is_complete(self, host: Host) -> bool:
        """With log matching, the last committed entry proves all before it."""
        assert host.raft is not None
        log = host.raft.log
        return log.start >= self.end or log.term_at(self.end) == self.last_term

    def _check_committed(self, host: Host, entry: Entry) -> None:
        if entry.offset != host.applied:
            raise Violated(f"{host.number} commits {entry} after {host.applied}")
        if entry.end <= self.end:
            if self.at.get(entry.end) != entry:
                raise Violated(f"{host.number} commits {entry}, but {self.at.get(entry.end)} was committed there")
            return
        raft = host.raft
        assert raft is not None
        # A disk that is lost has held what it was asked to hold; that nobody is elected without it is checked, too.
        hosts = [(n, self.world.hosts[n]) for n in raft.log.voters]
        holders = [n for n, each in hosts if any(d.has(entry.end, entry.term) for d in (each.disk, *each.lost))]
        if len(holders) * 2 <= len(raft.log.voters):
            raise Violated(f"{host.number} commits {entry}, on the disks of {holders} of {raft.log.voters} alone")
        self.history.append(entry)
        self.at[entry.end] = entry
        self.end, self.last_term = entry.end, entry.term
        self.digests[entry.end] = chained(host.digest, entry)
        self.world.note(f"{host.number} commits {entry.end} of term {entry.term}")
        for other in self.world.leaders():
            if other.raft is not None and other.raft.term > raft.term and not self._is_complete(other):
                raise Violated(
                    f"{other.number} leads term {other.raft.term} without {entry}, committed by {host.number}"
                )

    def _check_restored(self, host: Host, snapshot: Snapshot) -> None:
        if self.digests.get(snapshot.end) != int.from_bytes(snapshot.data[:8], "big"):
            raise Violated(f"{host.number} stands on a snapshot to {snapshot.end} of something never committed")
