"""What a voter is, whatever its role: term, vote, log, commit index; and the ways into the roles that need no peer."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .effects import Effects
from .log import RaftLog, continued
from .messages import Entry, Snapshot, VoterId
from .roles import LONG_AGO, Follower, Role


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds of each voter's own clock, all voters alike.

    A lease is safe while clocks run at rates within 1 : ``lease_s`` / ``election_min_s`` of each other.
    """

    heartbeat_s: float = 0.1
    election_min_s: float = 0.5
    election_max_s: float = 1.0
    lease_s: float = 0.45
    answer_s: float = 0.2
    """A message unanswered so long is sent again."""
    join_s: float = 10.0
    """A new voter that has not the log by then is given up."""
    append_bytes_max: int = 1_048_576
    """Of one message's entries or piece of a snapshot."""
    snapshot_bytes_max: int = 1_073_741_824
    undecided_max: int = 10_000
    """Entries that wait for a majority; more are refused."""


class Stored(msgspec.Struct, frozen=True):
    """What a voter finds on its disk. At the very first start: term 0 and ``Snapshot(0, 0, voters)``, with no
    voters on a node that will be added, and ``blank`` unless the node is alone."""

    term: int
    voted_for: VoterId | None
    snapshot: Snapshot
    entries: Sequence[Entry] = ()
    blank: bool = False


def chance(seed: int, draw: int) -> float:
    """The ``draw``-th number in [0, 1) of this seed (splitmix64), so that the machine needs no source of chance."""
    z = (seed + (draw + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return ((z ^ (z >> 31)) >> 11) / 2**53


class Voter:
    """See the module. ``committed`` never falls, and nothing before it is ever cut.

    A ``blank`` voter began with an empty disk. Perhaps the cluster is new; perhaps its old disk is lost, and with it
    entries that are committed because they were on it, so that its vote could elect somebody without them. Until it
    has all that a leader knows to be committed its vote counts only in an election where nobody has anything, or where
    everybody agrees.
    """

    def __init__(self, me: VoterId, stored: Stored, settings: Settings, seed: int, now: float) -> None:
        self.me = me
        self.settings = settings
        self.term: int = stored.term
        self.voted_for = stored.voted_for
        self.blank: bool = stored.blank
        self.log: RaftLog = RaftLog(stored.snapshot, continued(stored.snapshot, stored.entries))
        self.committed: int = stored.snapshot.end
        self._seed = seed
        self._draws = 0
        self.role: Role = self._first_role(now)
        # Whether the others are still to hear that this is a new life of one that may have led.
        self.restarted: bool = bool(self.peers) and self.term > 0 and self.voted_for == me

    def _first_role(self, now: float) -> Follower:
        """Whoever stood in some term may have promised its leader to elect nobody for a while, and has forgotten it.

        Before the first term nothing was promised: the first voter stands at once, the others leave it a moment.
        """
        voters = self.log.voters
        # Also before its last change, if that is in the log: who led then may do so still.
        if voters == self.log.voters_before == (self.me,):
            return Follower(leader=None, heard=now, elect_at=now)
        election_s = self.settings.election_min_s
        if self.term == 0 and self.me in voters:
            rank = sorted(voters).index(self.me)
            return Follower(leader=None, heard=LONG_AGO, elect_at=now + rank * (election_s / 2 + self.short_wait()))
        return Follower(leader=None, heard=now, elect_at=now + election_s + self.short_wait())

    @property
    def peers(self) -> list[VoterId]:
        """The other voters."""
        return [voter for voter in self.log.voters if voter != self.me]

    def election_timeout(self) -> float:
        """Another one at each call, so that voters who collide once part ways (paper 5.2)."""
        self._draws += 1
        settings = self.settings
        return settings.election_min_s + (settings.election_max_s - settings.election_min_s) * chance(
            self._seed, self._draws
        )

    def short_wait(self) -> float:
        """A random fifth of the shortest election timeout at most."""
        return (self.election_timeout() - self.settings.election_min_s) * 0.2

    def retry_timeout(self) -> float:
        """How long an election may take. Asking again whether one would be won disturbs nobody, so it may be soon."""
        return (self.settings.answer_s if self.term else self.settings.heartbeat_s / 2) + self.short_wait()

    def is_majority(self, granted: set[VoterId]) -> bool:
        voters = self.log.voters
        return sum(voter in granted for voter in voters) * 2 > len(voters)

    def wins(self, granted: set[VoterId], blank: set[VoterId]) -> bool:
        """Whether these votes elect us, some of them given by blank voters."""
        if self.is_majority(granted - blank):
            return True
        return self.is_majority(granted) and (self.log.end == 0 or granted.issuperset(self.log.voters))

    def own_vote(self) -> set[VoterId]:
        """Our own vote, if it is a blank voter's."""
        return {self.me} if self.blank else set()

    def follow(self, term: int, leader: VoterId | None, now: float, *, heard: bool = False) -> Follower:
        """Be a follower in this term; a new term has no vote yet. ``step`` makes a change of term durable."""
        if term > self.term:
            self.term, self.voted_for = term, None
        role = Follower(leader, now if heard else LONG_AGO, now + self.election_timeout())
        if isinstance(self.role, Follower):
            role.heard = max(role.heard, self.role.heard)
            role.incoming = self.role.incoming
        self.role = role
        return role

    def commit(self, end: int, out: Effects) -> None:
        """Entries before ``end`` are decided."""
        if end > self.committed:
            out.committed += self.log.read(self.committed, end)
            self.committed = end
