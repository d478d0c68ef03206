"""The four roles of a voter; each holds only what that role needs, and says what moves it on."""

from __future__ import annotations

import msgspec

from .messages import VoterId

LONG_AGO = float("-inf")


class Incoming(msgspec.Struct):
    """The pieces of a snapshot that a leader is sending."""

    end: int
    term: int
    data: bytearray


class Follower(msgspec.Struct):
    """Appends what the term's leader sends and votes for others; also a node that is no voter (yet, or any more).

    Moves on: at ``elect_at`` to ``PreCandidate``, if it may stand. While it has ``heard`` a leader within the
    shortest election timeout it grants nobody anything: that is what the leader's lease rests on. A start counts as
    having heard, for what was promised before the crash is forgotten.
    """

    leader: VoterId | None
    heard: float
    elect_at: float
    incoming: Incoming | None = None
    whole: bool = False
    """All that this leader knew to be committed, when it surely led, has come: a blank voter is one no more once that
    is on its disk."""


class PreCandidate(msgspec.Struct):
    """Asks whether it would be elected, in its old term, so that a voter cut off from the others disturbs nobody
    when it returns (thesis 9.6).

    Moves on: with a majority to ``Candidate``; at ``retry_at`` asks again; to ``Follower`` at a leader's message or
    a higher term.
    """

    granted: set[VoterId]
    blank: set[VoterId]
    """Those of them that are blank voters (see ``Voter``)."""
    retry_at: float


class Candidate(msgspec.Struct):
    """Has taken a new term and voted for itself, durably, and asks for votes.

    Moves on: with a majority to ``Leader``; at ``retry_at`` back to ``PreCandidate``; to ``Follower`` at a leader's
    message of its term or any higher term.
    """

    granted: set[VoterId]
    blank: set[VoterId]
    """Those of them that are blank voters (see ``Voter``)."""
    retry_at: float


class Progress(msgspec.Struct):
    """What a leader knows of one other log.

    Invariant: ``match`` <= the leader's end, and what is before ``match`` is on that voter's disk.
    """

    next: int
    match: int = 0
    told: int = 0
    """The commit index it was last sent."""
    sent: float | None = None
    """When the one unanswered message with content left: what comes up meanwhile is the next message's batch."""
    contact: float = LONG_AGO
    """When the newest message that it has answered was sent."""
    position: int = 0
    """Bytes it has of the snapshot to ``snapshot_end``."""
    snapshot_end: int = -1
    blank_since: float | None = None
    """When this leader heard that it is a blank voter: it counts for nothing until it is none any more."""


class Leader(msgspec.Struct):
    """Appends proposals, sends them, and commits what a majority has synced.

    Moves on: to ``Follower`` at a higher term in an answer, when no majority has answered anything sent within the
    shortest election timeout (check-quorum), or when its own removal is committed.
    """

    began: float
    term_end: int
    """The end of its term's first entry: before that is committed, nothing is known to be (paper 5.4.2, 8)."""
    beat_at: float
    progress: dict[VoterId, Progress] = {}
    founding: bool = False
    """Elected by blank voters, for nobody has anything, or everybody agrees: so they count, too."""
    joining: VoterId | None = None
    """A node that is sent the log and may vote once it has it (thesis 4.2.1); given up at ``join_until``."""
    join_until: float = 0.0


Role = Follower | PreCandidate | Candidate | Leader
