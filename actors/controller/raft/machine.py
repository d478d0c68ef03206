"""A voter of the metadata quorum: ``step(message, now) -> effects``. Pure; the simulator runs five in one thread."""

from __future__ import annotations

from typing import assert_never

from logeion.wire.errors import NotControllerError

from . import following, leading, voting
from .effects import Effects, SaveSnapshot, SaveVote
from .messages import (
    AddVoter,
    AppendEntries,
    AskVote,
    Compact,
    Elapsed,
    EntriesAppended,
    Input,
    InstallSnapshot,
    LeaderGone,
    Propose,
    RemoveVoter,
    Resign,
    Restarted,
    Snapshot,
    SnapshotReceived,
    TakeOver,
    VoteAnswered,
)
from .roles import LONG_AGO, Candidate, Follower, Leader, PreCandidate
from .state import Voter


class Raft(Voter):
    """One voter, from what it stored. ``seed`` makes its election timeouts its own; ``now`` is a monotonic clock."""

    @property
    def deadline(self) -> float:
        """When ``step(Elapsed(), now)`` is due."""
        if self.restarted:
            return LONG_AGO
        match self.role:
            case Follower() as role:
                return role.elect_at
            case PreCandidate() | Candidate() as role:
                return role.retry_at
            case Leader() as role:
                return role.beat_at if role.progress else float("inf")
            case _:
                assert_never(self.role)

    @property
    def leader(self) -> int | None:
        """Who leads, as far as this voter knows."""
        match self.role:
            case Follower() as role:
                return role.leader
            case Leader():
                return self.me
            case _:
                return None

    def lease_until(self, now: float) -> float:
        """Until when this voter's state may be read as the newest; long ago, unless it leads."""
        return leading.lease_until(self, self.role, now) if isinstance(self.role, Leader) else LONG_AGO

    def step(self, message: Input, now: float) -> Effects:
        """Take one message; what comes back must be done before the next (see ``effects``).

        Raises ``NotControllerError`` for a proposal or change of voters where another leads, and what
        ``leading.propose``, ``add_voter`` and ``remove_voter`` raise; nothing has changed then.
        """
        out = Effects()
        before, blank = (self.term, self.voted_for), self.blank
        match message:
            case Elapsed():
                self._elapsed(now, out)
            case AskVote():
                voting.asked(self, message, now, out)
            case VoteAnswered():
                voting.answered(self, message, now, out)
            case AppendEntries():
                following.append(self, message, now, out)
            case InstallSnapshot():
                following.install(self, message, now, out)
            case EntriesAppended() | SnapshotReceived():
                self._answered(message, now, out)
            case Propose():
                leading.propose(self, self._leading(), message.proposals, now, out)
            case AddVoter():
                leading.add_voter(self, self._leading(), message.voter, now, out)
            case RemoveVoter():
                leading.remove_voter(self, self._leading(), message.voter, now, out)
            case Resign():
                if isinstance(self.role, Leader):
                    leading.resign(self, self.role, now, out)
            case TakeOver():
                voting.take_over(self, message, now, out)
            case Restarted():
                voting.forget_leader(self, message, now)
            case LeaderGone():
                voting.miss_leader(self, message.voter, now)
            case Compact():
                self._compact(message, out)
            case _:
                assert_never(message)
        if (self.term, self.voted_for) != before:
            assert not out.before, "nothing of a new term may leave before the term is stored"
        if (self.term, self.voted_for, self.blank) != (*before, blank):
            out.writes.insert(0, SaveVote(self.term, self.voted_for, self.blank))
        return out

    def _elapsed(self, now: float, out: Effects) -> None:
        if now < self.deadline:
            return
        if self.restarted:
            self.restarted = False
            voting.tell_restart(self, out)
            return
        match self.role:
            case Follower() | PreCandidate() | Candidate():
                voting.campaign(self, now, out)
            case Leader() as role:
                leading.beat(self, role, now, out)
            case _:
                assert_never(self.role)

    def _answered(self, message: EntriesAppended | SnapshotReceived, now: float, out: Effects) -> None:
        if message.term > self.term:
            self.follow(message.term, None, now)
        if not isinstance(self.role, Leader) or message.term < self.term:
            return
        if isinstance(message, EntriesAppended):
            leading.appended(self, self.role, message, now, out)
        else:
            leading.received(self, self.role, message, now, out)

    def _compact(self, message: Compact, out: Effects) -> None:
        """Let a snapshot stand for the entries before ``end``, which this voter has applied."""
        term = self.log.term_at(message.end)
        assert term is not None and message.end <= self.committed, f"{message.end} is not a committed entry's end"
        if message.end > self.log.snapshot.end:
            snapshot = Snapshot(message.end, term, self.log.voters_at(message.end), message.data)
            kept = self.log.install(snapshot, message.tail)
            out.writes.append(SaveSnapshot(snapshot, start=self.log.start, reset=not kept))

    def _leading(self) -> Leader:
        if not isinstance(self.role, Leader):
            known = "no leader is known" if self.leader is None else f"voter {self.leader} leads"
            raise NotControllerError(f"voter {self.me} does not lead the metadata quorum: {known}")
        return self.role
