"""What voters of the metadata quorum say to each other, and what their own shell tells them.

An *entry* is one proposal: a record batch that is there whole or not at all. It covers the offsets
``offset .. offset + count``, so a place in the log is named by the offset at which an entry ends (0: the start), and
"the entry before" is the pair (end, term). Every message carries its sender's term; an older one is answered with ours.
"""

from __future__ import annotations

import msgspec

from ...message import Message

VoterId = int


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One proposal. Without data: a term's first entry, or (``voters``) the set of voters from this entry on."""

    offset: int
    term: int
    count: int = 1
    data: bytes = b""
    voters: tuple[VoterId, ...] | None = None

    @property
    def end(self) -> int:
        """The offset after the last one it covers."""
        return self.offset + self.count


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What all entries before ``end`` add up to; ``term`` is the last one's, ``voters`` the set that they leave."""

    end: int
    term: int
    voters: tuple[VoterId, ...]
    data: bytes = b""


class AskVote(Message, frozen=True, kw_only=True):
    """Candidate to voter: vote for me in this term, or (``pre``) would you? My log ends so (paper 5.2, 5.4.1).

    ``transfer``: the leader of the term before has resigned in my favour, so that it is no reason to refuse.
    """

    term: int
    voter: VoterId
    pre: bool = False
    transfer: bool = False
    end: int
    last_term: int


class VoteAnswered(Message, frozen=True, kw_only=True):
    """Voter to candidate, to what was asked for the term ``asked``; ``term`` is the voter's own. ``blank``: see
    ``state.Voter``; such a voter also says who votes, as far as it has been told (``voters``)."""

    term: int
    voter: VoterId
    pre: bool = False
    asked: int
    granted: bool = False
    blank: bool = False
    voters: list[VoterId] = []


class AppendEntries(Message, frozen=True, kw_only=True):
    """Leader to follower: these follow the entry that ends at ``prev_end``; all before ``committed`` is decided.

    Without entries a heartbeat. ``sent`` is the leader's clock, returned unread: what it proves about the lease
    must count from the sending. ``sure``, to a blank voter: a majority of the others has answered this leader since it
    heard that this one is blank, so nothing is committed in a later term that the lost disk had been needed for.
    """

    term: int
    voter: VoterId
    sent: float
    prev_end: int
    prev_term: int
    entries: list[Entry] = []
    committed: int = 0
    sure: bool = False


class EntriesAppended(Message, frozen=True, kw_only=True):
    """Follower to leader: my log is synced and equals yours up to ``match``; or (``match`` < 0) it lacks the entry
    before, and the newest of mine that can equal one of yours ends at ``hint_end``, in ``hint_term``. ``blank``: see
    ``state.Voter``."""

    term: int
    voter: VoterId
    sent: float
    match: int = -1
    hint_end: int = 0
    hint_term: int = 0
    blank: bool = False


class InstallSnapshot(Message, frozen=True, kw_only=True):
    """Leader to follower whose next entry is gone: a piece of the snapshot, ``position`` of ``size`` bytes."""

    term: int
    voter: VoterId
    sent: float
    end: int
    last_term: int
    voters: tuple[VoterId, ...]
    size: int
    position: int
    data: bytes = b""


class SnapshotReceived(Message, frozen=True, kw_only=True):
    """Follower to leader: of the snapshot to ``end`` I have the first ``position`` bytes, send on from there."""

    term: int
    voter: VoterId
    sent: float
    end: int
    position: int
    blank: bool = False


class TakeOver(Message, frozen=True, kw_only=True):
    """Leader to follower: I have resigned, and your log is the longest: stand at once (thesis 3.10)."""

    term: int
    voter: VoterId


class Restarted(Message, frozen=True, kw_only=True):
    """Voter that has stood in this term to all, once: I have lost my memory, so if I led it I do no longer, and what
    you promised me is void. Its host may be earlier to know, and then a voter tells itself."""

    term: int
    voter: VoterId


Told = (
    AskVote | VoteAnswered | AppendEntries | EntriesAppended | InstallSnapshot | SnapshotReceived | TakeOver | Restarted
)
"""What travels between voters."""


class Elapsed(msgspec.Struct, frozen=True, gc=False):
    """Shell to machine: the time is now; due at ``Raft.deadline``."""


class Proposal(msgspec.Struct, frozen=True, gc=False):
    """A batch of ``count`` records that becomes one entry."""

    count: int
    data: bytes


class Propose(msgspec.Struct, frozen=True):
    """Shell to leader: append these. All that waited go in one message, one write, one sync, one round."""

    proposals: list[Proposal]


class Compact(msgspec.Struct, frozen=True, gc=False):
    """Shell to voter: ``data`` is what the entries before ``end`` add up to, so those before ``tail`` may go."""

    end: int
    data: bytes
    tail: int


class AddVoter(msgspec.Struct, frozen=True, gc=False):
    """Shell to leader: bring this node's log up to ours, then let it vote."""

    voter: VoterId


class RemoveVoter(msgspec.Struct, frozen=True, gc=False):
    """Shell to leader: this voter, or the leader itself, votes no longer."""

    voter: VoterId


class Resign(msgspec.Struct, frozen=True, gc=False):
    """Shell to leader: this process is about to stop, let another one lead. Nothing happens where it does not."""


class LeaderGone(msgspec.Struct, frozen=True, gc=False):
    """Shell to follower: the connection to this voter has broken. If it leads: wait no longer than its lease lasts."""

    voter: VoterId


Input = Told | Elapsed | Propose | Compact | AddVoter | RemoveVoter | Resign | LeaderGone
"""Everything ``Raft.step`` takes."""
