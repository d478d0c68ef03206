"""The metadata quorum's Raft in the simulator, and proof that the simulator's judges can see."""

from __future__ import annotations

import pytest

from logeion.actors.controller.raft import following, leading, voting
from logeion.actors.controller.raft.effects import AppendLog, Effects, SaveVote
from logeion.actors.controller.raft.log import RaftLog
from logeion.actors.controller.raft.machine import Raft
from logeion.actors.controller.raft.messages import AskVote, Elapsed, Entry, Proposal, Propose, Snapshot
from logeion.actors.controller.raft.roles import Leader
from logeion.actors.controller.raft.state import Settings, Stored, Voter
from tests.sim import plants
from tests.sim.raft_world import Violated, World, run_seed


def test_no_seed_breaks_an_invariant() -> None:
    for seed in range(100):
        run_seed(seed)


def test_one_seed_is_one_history() -> None:
    first, second = (run_seed(7, voters=3) for _ in range(2))
    assert first.trace == second.trace
    assert first.judge.history == second.judge.history


def test_one_voter_elects_itself_and_commits_in_the_step_that_proposes() -> None:
    raft = Raft(1, Stored(0, None, Snapshot(0, 0, (1,))), Settings(), seed=1, now=0.0)
    elected = raft.step(Elapsed(), raft.deadline)
    assert isinstance(raft.role, Leader)
    assert elected.writes == [SaveVote(1, 1), AppendLog([Entry(0, 1)])]
    proposed = raft.step(Propose([Proposal(2, b"a"), Proposal(1, b"b")]), 0.1)
    assert proposed.writes == [AppendLog([Entry(1, 1, 2, b"a"), Entry(3, 1, 1, b"b")])]
    assert proposed.committed == [Entry(1, 1, 2, b"a"), Entry(3, 1, 1, b"b")]
    assert not proposed.before and not proposed.after


def caught(seeds: int = 2_000) -> str:
    """The violation that the planted bug causes."""
    for seed in range(seeds):
        try:
            run_seed(seed)
        except Violated as violation:
            return str(violation)
    raise AssertionError(f"{seeds} seeds ran clean over a planted bug")


def test_a_vote_not_persisted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plants.vote_not_persisted(monkeypatch)
    violation = caught()
    assert "votes for" in violation or "both lead" in violation


def test_an_earlier_terms_entry_committed_by_count_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_count(voter: Voter, leader: Leader) -> int:
        log = voter.log
        ends = [log.end if peer == voter.me else leader.progress[peer].match for peer in log.voters]
        return sorted(ends, reverse=True)[len(ends) // 2]

    monkeypatch.setattr(leading, "committable", by_count)
    # One entry a message, so that there is a moment at which only the earlier term's has a majority.
    monkeypatch.setattr("tests.sim.raft_world.SETTINGS", Settings(append_bytes_max=1))
    assert "by count alone" in caught()


def test_committed_entries_truncated_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(voter: Voter, entries: list[Entry], out: Effects) -> None:
        if entries and entries[0].offset < voter.log.end:
            following.cut(voter, entries[0].offset, out)
        voter.log.append(entries)
        if entries:
            out.writes.append(AppendLog(entries))

    def cut(voter: Voter, end: int, out: Effects) -> None:
        voter.log.truncate(end)
        out.writes.append(following.TruncateLog(end))

    monkeypatch.setattr(following, "take", trusting)
    monkeypatch.setattr(following, "cut", cut)
    violation = caught()
    assert "its log ends at" in violation or "on the disks of" in violation or "without" in violation


def test_a_snapshot_that_drops_its_tail_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: RaftLog, snapshot: Snapshot, tail: int) -> bool:
        self.__init__(snapshot)  # type: ignore[misc]
        return False

    monkeypatch.setattr(RaftLog, "install", careless)
    violation = caught()
    assert "on the disks of" in violation or "without" in violation or "another voter" in violation


def test_acting_on_an_uncommitted_record_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "committable", lambda voter, leader: voter.log.end)
    assert "alone" in caught()


def test_a_pre_vote_without_a_look_at_the_log_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = voting.is_fresh
    monkeypatch.setattr(voting, "is_fresh", lambda voter, ask: ask.pre or honest(voter, ask))
    assert "though its own log ends at" in caught()


def test_a_vote_without_a_look_at_the_log_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(voter: Voter, message: AskVote) -> bool:
        return True

    monkeypatch.setattr(voting, "is_fresh", blind)
    monkeypatch.setattr("tests.sim.raft_judge.Judge.voted", lambda *_: None)
    assert "without what is committed" in caught()


def test_a_lease_without_a_majority_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "lease_until", lambda voter, leader, now: now + voter.settings.lease_s)
    assert "still has its lease" in caught()


def test_a_leader_that_resigns_but_goes_on_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = leading.resign

    def reluctant(voter: Voter, leader: Leader, now: float, out: Effects) -> None:
        honest(voter, leader, now, out)
        voter.role = leader

    monkeypatch.setattr(leading, "resign", reluctant)
    assert "still has its lease" in caught()


def test_the_vote_of_a_lost_disk_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Voter, "wins", lambda self, granted, blank: self.is_majority(granted))
    assert "without what is committed" in caught()


def test_a_world_has_what_the_seeds_are_for() -> None:
    worlds: list[World] = [run_seed(seed) for seed in range(40)]
    assert sum(len(world.judge.leaders) for world in worlds) > 60
    assert sum(world.judge.installed for world in worlds) > 5
    assert sum(world.transfers for world in worlds) > 2
    assert sum(world.disks_lost for world in worlds) > 0
    assert any(entry.voters is not None for world in worlds for entry in world.judge.history)
