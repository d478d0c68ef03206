"""What must hold of a metadata quorum whose voters change, and may lose their disks (Raft paper; thesis, 4.1).

Told by each Controller what its step has written, before anything that rests on it leaves. Votes, acknowledgements and
majorities are compared with what a power cut would leave on the voters' disks; which set of voters counts is read from
the entries themselves.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING

import msgspec

from logeion.actors.controller.raft.effects import AppendLog
from logeion.actors.controller.raft.messages import AskVote, EntriesAppended, Entry, Snapshot, VoteAnswered
from logeion.actors.controller.raft.roles import Leader
from tests.sim.engine import Violated
from tests.sim.hosts import DATA
from tests.sim.logview import LogView
from tests.sim.nodes import NodeProcess

if TYPE_CHECKING:
    from logeion.actors.controller.member import Acts
    from logeion.actors.controller.raft.log import RaftLog
    from logeion.actors.controller.raft.machine import Raft
    from tests.sim.quorums import MovingController
    from tests.sim.world import World

DIRECTORY = f"{DATA}/__cluster_metadata-0"
STATE, FAILED = "quorum-state", "storage-failed"
_SNAPSHOT = re.compile(r"(\d{20})-(\d{10})\.checkpoint", re.ASCII)

Voters = tuple[int, ...]


class QuorumJudge:
    """``sets`` are the sets of voters that were ever committed, and the end of the entry that states each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sets: list[tuple[int, Voters]] = [(0, world.voters)]
        self.leaders: dict[int, int] = {}
        self.votes: dict[tuple[int, int], int] = {}
        self.history: dict[int, Entry] = {}
        self.end = self.last_term = 0
        # Voters that have lost their disk, and what was committed then: until they have that again.
        self.lost: dict[int, int] = {}
        # What disks that are lost had held when it was acknowledged.
        self._held: dict[int, set[tuple[int, int]]] = {}
        self._views: dict[int, LogView] = {}

    @property
    def voters(self) -> Voters:
        """The newest set that is committed."""
        return self.sets[-1][1]

    # Disks

    def _view(self, host: int) -> LogView:
        view = self._views.get(host)
        if view is None:
            disk = self.world.hosts[host].disk
            view = self._views[host] = LogView(disk, DIRECTORY, self.world.judge.read, durable=True)
        view.refresh()
        return view

    def _snapshot_end(self, host: int) -> int:
        names = self.world.hosts[host].disk.durable.get(DIRECTORY, ())
        return max((int(found[1]) for name in names if (found := _SNAPSHOT.fullmatch(name))), default=0)

    def holds(self, host: int, end: int, term: int) -> bool:
        """Whether a power cut now would leave the entry of this term that ends there."""
        view = self._view(host)
        number = bisect_left(view.bases, end) - 1
        if number >= 0 and view.batches[number].next == end and view.batches[number].epoch == term:
            return True
        return self._snapshot_end(host) >= end

    def state(self, host: int, *, durable: bool = True) -> dict[str, object]:
        """The term, the vote and the blankness on this disk; empty where there is none."""
        disk = self.world.hosts[host].disk
        inode = (disk.durable if durable else disk.names).get(DIRECTORY, {}).get(STATE)
        data = b"" if inode is None else bytes(inode.synced if durable else inode.data)
        found: dict[str, object] = msgspec.json.decode(data) if data else {}
        return found

    def is_fenced(self, host: int) -> bool:
        """Whether a sync failed there, and nobody has yet accepted what that cost."""
        return FAILED in self.world.hosts[host].disk.names.get(DIRECTORY, ())

    def disk_lost(self, host: int, *, votes: bool = True) -> None:
        """About to happen; with the disk goes (``votes``) what its voter ever promised."""
        view = self._view(host)
        held = self._held.setdefault(host, set())
        held.update((batch.next, batch.epoch) for batch in view.batches)
        snapshot = self._snapshot_end(host)
        held.update((end, entry.term) for end, entry in self.history.items() if end <= snapshot)
        self.lost[host] = self.end
        if votes:
            self.votes = {vote: to for vote, to in self.votes.items() if vote[1] != host}

    # Steps

    def stepped(self, process: MovingController, acts: Acts) -> None:
        """This step's writes are done, and nothing that depends on them has left."""
        raft = process.member.raft
        if raft is None:
            return
        host = process.host
        owed = self.lost.get(host)
        if owed is not None and (not owed or self.holds(host, owed, self.history[owed].term)):
            del self.lost[host]
        for send in acts.raft.after:
            message = send.message
            if isinstance(message, VoteAnswered) and message.granted:
                self._voted(host, message, send.to)
            elif isinstance(message, AskVote) and not message.pre:
                self._vote(host, message.term, host)
            elif isinstance(message, EntriesAppended) and message.match > 0:
                self._acknowledged(host, raft, message.match)
        if isinstance(raft.role, Leader):
            self._leads(host, raft)
        for write in acts.raft.writes:
            if isinstance(write, AppendLog) and self.leaders.get(raft.term) == host:
                for entry in write.entries:
                    if entry.voters is not None:
                        self._changes(host, raft, entry)
        for what in acts.raft.committed:
            if isinstance(what, Snapshot):
                self._restored(host, what)
            else:
                self._committed(host, raft, what)

    def _voted(self, host: int, answer: VoteAnswered, to: int) -> None:
        if host in self.lost and not answer.blank:
            raise Violated(
                f"voter {host} votes for {to} as if it still had what was committed up to {self.lost[host]}, but its "
                "disk was lost"
            )
        if not answer.pre:
            self._vote(host, answer.asked, to)

    def _vote(self, host: int, term: int, to: int) -> None:
        first = self.votes.setdefault((term, host), to)
        if first != to:
            raise Violated(f"voter {host} votes for {first} and {to} in term {term}")
        state = self.state(host)
        if (state.get("term"), state.get("voted_for")) != (term, to):
            raise Violated(f"voter {host} votes for {to} in term {term}, but a power cut would leave {state}")

    def _acknowledged(self, host: int, raft: Raft, match: int) -> None:
        term = raft.log.term_at(match)
        if term is not None and not self.holds(host, match, term):
            raise Violated(
                f"voter {host} acknowledges {match} of term {term}, but a power cut would leave its log up to "
                f"{self._view(host).end}"
            )

    def _leads(self, host: int, raft: Raft) -> None:
        first = self.leaders.get(raft.term)
        if first == host:
            return
        if first is not None:
            raise Violated(f"{first} and {host} both lead the quorum in term {raft.term}")
        self.leaders[raft.term] = host
        self.world.note(f"controller {host} leads the quorum in term {raft.term} with voters {raft.log.voters}")
        log = raft.log
        complete = log.start >= self.end or log.term_at(self.end) == self.last_term
        if raft.term > self.last_term and not complete:
            raise Violated(
                f"controller {host} leads the quorum in term {raft.term} without what is committed up to {self.end}"
            )
        self.world.quorum_led(host)

    def _changes(self, host: int, raft: Raft, entry: Entry) -> None:
        """A leader begins with another set of voters: the one before is committed, and differs by one voter."""
        assert entry.voters is not None
        end, before = newest_set(raft.log, entry.offset)
        self.world.note(f"controller {host} changes voters {before} to {entry.voters} at {entry.offset}")
        if end > raft.committed:
            raise Violated(
                f"controller {host} changes the voters to {entry.voters} at {entry.offset} while {before} at {end} "
                f"is not committed: that is {raft.committed}"
            )
        if len(set(before) ^ set(entry.voters)) != 1:
            raise Violated(f"controller {host} changes the voters from {before} to {entry.voters} in one step")

    def _committed(self, host: int, raft: Raft, entry: Entry) -> None:
        known = self.history.get(entry.end)
        if known is not None or entry.end <= self.end:
            if known != entry:
                raise Violated(f"controller {host} commits {entry}, but {known} was committed there")
            return
        if entry.offset != self.end:
            raise Violated(f"controller {host} commits {entry}, but the log is committed up to {self.end} only")
        _, voters = newest_set(raft.log, raft.log.end)
        holders = [
            voter
            for voter in voters
            if self.holds(voter, entry.end, entry.term) or (entry.end, entry.term) in self._held.get(voter, ())
        ]
        if 2 * len(holders) <= len(voters):
            raise Violated(
                f"controller {host} commits {entry.offset} to {entry.end} of term {entry.term}, durable on {holders} "
                f"of the voters {voters} alone"
            )
        self.history[entry.end] = entry
        self.end, self.last_term = entry.end, entry.term
        if entry.voters is not None:
            self.sets.append((entry.end, entry.voters))
            self.world.note(f"the voters are {entry.voters}, committed at {entry.end}")

    def _restored(self, host: int, snapshot: Snapshot) -> None:
        if snapshot.end > self.end:
            raise Violated(f"controller {host} has a snapshot up to {snapshot.end}, committed is {self.end}")
        if set(self.set_at(snapshot.end)) != set(snapshot.voters):
            raise Violated(f"a snapshot up to {snapshot.end} says {snapshot.voters}, not {self.set_at(snapshot.end)}")

    # Answers

    def set_at(self, end: int) -> Voters:
        """The set that is in force after what is committed before ``end``."""
        return next(voters for at, voters in reversed(self.sets) if at <= end)

    def changed(self, add: int | None, remove: int | None, committed: int) -> None:
        """An admin is told that its change is committed."""
        voters = self.set_at(committed)
        if add is not None and add not in voters:
            raise Violated(f"voter {add} is said to be added, but those committed up to {committed} are {voters}")
        if remove is not None and remove in voters:
            raise Violated(f"voter {remove} is said to be removed, but those committed up to {committed} are {voters}")

    def known_already(self, add: int | None, remove: int | None) -> None:
        """An admin is told that there is nothing to do; so it was at some time, and not only in some log."""
        voters = [set(voters) for _, voters in self.sets]
        if add is not None and not any(add in each for each in voters):
            raise Violated(f"voter {add} is said to be one already, but never was: {self.sets}")
        if remove is not None and not any(remove not in each or each == {remove} for each in voters):
            raise Violated(f"voter {remove} is said to be none, or the only one, but that never was: {self.sets}")

    # The end

    def is_whole(self) -> bool:
        """One leads, everybody has and knows all that is committed, and the voters are those that are committed."""
        world, voters = self.world, set(self.voters)
        leader = next((process for process in world.controllers() if process.member.decides), None)
        if leader is None or leader.member.raft is None:
            return False
        raft = leader.member.raft
        if raft.committed != raft.log.end or raft.committed != self.end or set(raft.log.voters) != voters:
            return False
        found = world.controllers()
        if len(found) != len(world.hosts):
            return False
        for process in found:
            member = process.member
            if member.closed is not None or member.applied != self.end or member.leader != leader.host:
                return False
            if member.votes != (process.host in voters):
                return False
            if member.votes and member.raft is not None:
                own = member.raft
                if own.log.end != raft.log.end or own.blank or set(own.log.voters) != voters:
                    return False
            if len(self.sets) > 1 and set(member.image.voters) != voters:
                return False
            node = world.hosts[process.host].processes.get("node")
            if not isinstance(node, NodeProcess) or node.machine.applied != self.end:
                return False
            if len(self.sets) > 1 and set(node.machine.image.voters) != voters:
                return False
        return True

    def term(self) -> int:
        """The newest that had a leader."""
        return max(self.leaders)

    def check_quiet(self, term: int) -> None:
        """Since the quorum was whole nobody has been elected, and it still is."""
        if self.term() != term:
            raise Violated(f"the quorum was whole in term {term}; nothing happened, and it is in term {self.term()}")
        if not self.is_whole():
            raise Violated("the quorum was whole; nothing happened, and it is not any more")


def newest_set(log: RaftLog, end: int) -> tuple[int, Voters]:
    """The newest set of voters that this log states before ``end``, committed or not, and where."""
    for entry in reversed(log.entries):
        if entry.voters is not None and entry.end <= end:
            return entry.end, entry.voters
    return log.snapshot.end, log.snapshot.voters
