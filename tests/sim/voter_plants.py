"""Bugs of a quorum whose voters come and go, for ``planted``: one function a bug, undone by its ``MonkeyPatch``."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from logeion.actors.controller import member
from logeion.actors.controller.member import Answer, Member
from logeion.actors.controller.raft import leading
from logeion.actors.controller.raft.state import Stored
from logeion.actors.controller.storage import DIRECTORY, VoterStorage
from logeion.actors.messages import ChangeVoters, Recorded
from logeion.log.sync import SyncHandle
from logeion.wire.errors import StorageError


def old_set_counts(patch: pytest.MonkeyPatch) -> None:
    """A new set of voters counts only once it is committed: until then, the one before."""

    def committable(voter: Any, leader: Any) -> int:
        log = voter.log
        voters = log.voters_at(voter.committed)
        known = {peer: progress.match for peer, progress in leader.progress.items()} | {voter.me: log.end}
        end = sorted((known.get(peer, 0) for peer in voters), reverse=True)[len(voters) // 2]
        return end if log.term_at(end) == voter.term else voter.committed

    patch.setattr(leading, "committable", committable)


def second_change(patch: pytest.MonkeyPatch) -> None:
    """A change is begun while the one before may still be undone."""
    honest = Member._change_voters

    def change(self: Member, ticket: int, wish: ChangeVoters, now: float, acts: Any) -> None:
        if self._change is not None:
            acts.answers.append(Answer(self._change.ticket, member._lost("another change was asked for")))
            self._change = None
        honest(self, ticket, wish, now, acts)

    patch.setattr(Member, "_change_voters", change)
    patch.setattr(leading, "_check_settled", lambda voter, leader: None)


def answered_early(patch: pytest.MonkeyPatch) -> None:
    """A change is said to be done as soon as it is in the leader's log."""
    honest = Member._answer_change

    def answer(self: Member, raft: Any, acts: Any) -> None:
        change = self._change
        if change is not None and (change.voter in raft.log.voters) == change.adding:
            acts.answers.append(Answer(change.ticket, Recorded(committed=raft.committed)))
            self._change = None
        honest(self, raft, acts)

    patch.setattr(Member, "_answer_change", answer)


def removed_counts(patch: pytest.MonkeyPatch) -> None:
    """What a voter acknowledges that the newest change has removed makes a majority of the others."""

    def committable(voter: Any, leader: Any) -> int:
        log = voter.log
        known = {peer: progress.match for peer, progress in leader.progress.items()} | {voter.me: log.end}
        ends = sorted((known.get(peer, 0) for peer in {*log.voters, *log.voters_before}), reverse=True)
        end = ends[len(log.voters) // 2]
        return end if log.term_at(end) == voter.term else voter.committed

    patch.setattr(leading, "committable", committable)
    patch.setattr(leading, "_forget", lambda leader, peer: None)


def voter_sync_ignored(patch: pytest.MonkeyPatch) -> None:
    """A voter's sync that fails counts all the same: what it was for is acknowledged."""
    honest = SyncHandle.run

    def run(self: SyncHandle) -> None:
        try:
            honest(self)
        except StorageError:
            if DIRECTORY not in str(self.directory):
                raise

    patch.setattr(SyncHandle, "run", run)


def remembers_nothing_lost(patch: pytest.MonkeyPatch) -> None:
    """A voter with a new disk votes as if it still had what it had."""
    honest = VoterStorage.open

    def open_it(self: VoterStorage, me: int, voters: tuple[int, ...]) -> Stored:
        return msgspec.structs.replace(honest(self, me, voters), blank=False)

    patch.setattr(VoterStorage, "open", open_it)
