"""What a controller's member is told, and what it asks of its shell (see ``member``)."""

from __future__ import annotations

import msgspec

from ..messages import ChangeVoters, Committed, DescribeQuorum, Message
from .entries import Commit
from .machine import Request
from .raft.effects import Effects
from .raft.messages import Elapsed, LeaderGone, Resign, Snapshot, Told, VoterId

Question = Request | ChangeVoters | DescribeQuorum


class Ask(msgspec.Struct, frozen=True, gc=False):
    """Somebody asks; ``ticket`` names the question until it is answered. One that a voter has ``relayed`` to us as the
    leader is not relayed further."""

    ticket: int
    question: Question
    relayed: bool = False


class Asks(msgspec.Struct, frozen=True):
    """All that was asked since the last step."""

    asks: list[Ask]


class Relayed(msgspec.Struct, frozen=True):
    """The leader answered; ``None``: it went away over the question, so nobody knows what became of it."""

    ticket: int
    answer: Message | None


class NotRelayed(msgspec.Struct, frozen=True, gc=False):
    """The question did not reach a leader."""

    ticket: int


class Learned(msgspec.Struct, frozen=True):
    """An observer hears what is committed."""

    committed: Committed


class Compacted(msgspec.Struct, frozen=True):
    """The snapshot that ``Member.snapshot`` gave is on the disk; the log before it may go."""

    snapshot: Snapshot


class HostSeen(msgspec.Struct, frozen=True, gc=False):
    """Whether this node runs, as its host has just shown."""

    node: int
    running: bool


Event = Told | Elapsed | Resign | LeaderGone | Asks | Relayed | NotRelayed | Learned | Compacted | HostSeen


class Answer(msgspec.Struct, frozen=True):
    """To whoever asked."""

    ticket: int
    message: Message


class Relay(msgspec.Struct, frozen=True):
    """Ask this voter, then tell ``Relayed`` or ``NotRelayed``."""

    to: VoterId
    ticket: int
    question: Question


class Acts(msgspec.Struct):
    """What a step asks of the shell. See the module."""

    raft: Effects
    publish: list[Commit] = []
    answers: list[Answer] = []
    relays: list[Relay] = []
