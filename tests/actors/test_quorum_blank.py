"""A voter without its disk knows no term: what it says counts for nobody who cannot prove that it leads."""

from __future__ import annotations

from logeion.actors.controller.raft import leading
from logeion.actors.controller.raft.effects import AppendLog, SaveVote
from logeion.actors.controller.raft.machine import Raft
from logeion.actors.controller.raft.messages import (
    AppendEntries,
    AskVote,
    Elapsed,
    EntriesAppended,
    Entry,
    Input,
    Proposal,
    Propose,
    RemoveVoter,
    Snapshot,
    Told,
    VoteAnswered,
)
from logeion.actors.controller.raft.roles import Leader
from logeion.actors.controller.raft.state import Settings, Stored

VOTERS = (1, 2, 3)
SETTINGS = Settings()


def empty(voter: int, now: float) -> Raft:
    return Raft(voter, Stored(0, None, Snapshot(0, 0, VOTERS), (), blank=True), SETTINGS, voter, now)


def deliver(rafts: dict[int, Raft], voter: int, message: Input, now: float) -> list[tuple[int, Told]]:
    """Let all that comes of this arrive at once; returns what went to those that are not there."""
    lost: list[tuple[int, Told]] = []
    waiting: list[tuple[int, Input]] = [(voter, message)]
    while waiting:
        to, each = waiting.pop(0)
        out = rafts[to].step(each, now)
        for send in (*out.before, *out.after):
            if send.to in rafts:
                waiting.append((send.to, send.message))
            else:
                lost.append((send.to, send.message))
    return lost


def led() -> tuple[dict[int, Raft], float]:
    """Three voters, led by 1."""
    rafts = {voter: empty(voter, 0.0) for voter in VOTERS}
    now = 0.0
    while not isinstance(rafts[1].role, Leader):
        now += 0.01
        deliver(rafts, 1, Elapsed(), now)
    deliver(rafts, 1, Propose([Proposal(1, b"both have it")]), now)
    deliver(rafts, 1, Elapsed(), now + SETTINGS.heartbeat_s)
    assert not any(raft.blank for raft in rafts.values())
    return rafts, now + SETTINGS.heartbeat_s


def test_a_founding_quorum_counts_blank_voters_until_a_majority_has_something() -> None:
    rafts, _ = led()
    role = rafts[1].role
    assert isinstance(role, Leader) and not role.founding
    assert {raft.committed for raft in rafts.values()} == {rafts[1].log.end}


def test_a_deposed_leader_commits_nothing_with_a_voter_that_has_lost_its_disk() -> None:
    rafts, now = led()
    # 3 comes back with nothing, and only 1 reaches it: for all it knows 2 leads a later term.
    rafts[3] = empty(3, now)
    alone = {1: rafts[1], 3: rafts[3]}
    committed, began = rafts[1].committed, now
    while now < began + 3 * SETTINGS.election_max_s:
        now += 0.01
        for voter, raft in alone.items():
            if raft.deadline <= now:
                deliver(alone, voter, Elapsed(), now)
        if isinstance(rafts[1].role, Leader):
            deliver(alone, 1, Propose([Proposal(1, b"of the past")]), now)
    assert rafts[1].committed == committed
    assert not isinstance(rafts[1].role, Leader), "a blank voter does not keep it in office"
    assert rafts[3].blank


def test_a_blank_voter_counts_again_once_the_others_have_confirmed_their_leader() -> None:
    rafts, now = led()
    rafts[3] = empty(3, now)
    for _ in range(5):
        now += SETTINGS.heartbeat_s
        deliver(rafts, 1, Elapsed(), now)
    assert not rafts[3].blank and rafts[3].committed == rafts[1].committed
    two = rafts.pop(2)
    deliver(rafts, 1, Propose([Proposal(1, b"with 3")]), now)
    assert rafts[1].committed == rafts[1].log.end > two.log.end


def test_what_the_lost_disk_had_acknowledged_counts_no_more() -> None:
    rafts, now = led()
    role = rafts[1].role
    assert isinstance(role, Leader)
    end, sent = rafts[1].log.end, role.progress[3].contact
    now += 0.01
    rafts[1].step(EntriesAppended(term=1, voter=3, sent=sent, blank=True), now)
    assert role.progress[3].match == 0
    rafts[1].step(EntriesAppended(term=1, voter=3, sent=sent, match=end), now + 0.01)
    assert role.progress[3].match == 0 and role.progress[3].blank_since == now


def test_a_blank_voter_elects_nobody_by_what_a_deposed_leader_told_it() -> None:
    blank = empty(3, 0.0)
    entries = led()[0][1].log.read(0, 99)
    told = AppendEntries(
        term=1, voter=1, sent=0.0, prev_end=0, prev_term=0, entries=list(entries), committed=entries[-1].end
    )
    blank.step(told, 0.1)
    again = AppendEntries(term=1, voter=1, sent=0.1, prev_end=entries[-1].end, prev_term=1, committed=entries[-1].end)
    blank.step(again, 0.2)
    asked = AskVote(term=2, voter=1, end=entries[-1].end, last_term=1)
    [send] = blank.step(asked, 0.2 + SETTINGS.election_max_s).after
    answer = send.message
    assert isinstance(answer, VoteAnswered) and answer.granted and answer.blank


def test_a_blank_voter_that_is_told_more_and_more_is_whole_with_what_it_has_on_its_disk() -> None:
    """There may be something to write for each message; it counts from the next one on."""
    blank = empty(3, 0.0)
    for at in range(3):
        told = AppendEntries(
            term=1,
            voter=1,
            sent=at / 10,
            prev_end=at,
            prev_term=min(at, 1),
            entries=[Entry(at, 1)],
            committed=at + 1,
            sure=True,
        )
        out = blank.step(told, at / 10)
        [answer] = [send.message for send in out.after]
        assert isinstance(answer, EntriesAppended) and answer.blank == (at == 0)
        saved = [write.blank for write in out.writes if isinstance(write, SaveVote)]
        assert saved == [[True], [False], []][at] and isinstance(out.writes[-1], AppendLog)
    assert not blank.blank and blank.voted_for == 1


def test_what_an_unsure_leader_told_does_not_make_a_voter_whole_at_its_next_word() -> None:
    blank = empty(3, 0.0)
    for at in range(3):
        told = AppendEntries(
            term=1, voter=1, sent=at / 10, prev_end=at, prev_term=min(at, 1), entries=[Entry(at, 1)], committed=at + 1
        )
        blank.step(told, at / 10)
    assert blank.blank
    sure = AppendEntries(
        term=1, voter=1, sent=0.3, prev_end=3, prev_term=1, entries=[Entry(3, 1)], committed=4, sure=True
    )
    blank.step(sure, 0.3)
    # A leader of a later term has not said that it surely leads.
    later = AppendEntries(term=2, voter=2, sent=0.4, prev_end=4, prev_term=1, committed=4)
    blank.step(later, 0.4)
    assert blank.blank and blank.voted_for is None


def test_a_disk_that_is_lost_again_is_doubted_again() -> None:
    """What the leader had confirmed since the first loss may be older than what the second disk had been needed for."""
    rafts, now = led()
    role = rafts[1].role
    assert isinstance(role, Leader)
    now += SETTINGS.heartbeat_s
    rafts[1].step(Elapsed(), now)
    progress = role.progress[3]
    rafts[1].step(EntriesAppended(term=1, voter=3, sent=now, blank=True), now)
    assert progress.sent is not None
    rafts[1].step(EntriesAppended(term=1, voter=3, sent=progress.sent, match=rafts[1].log.end, blank=True), now)
    first = progress.blank_since
    now += SETTINGS.heartbeat_s
    rafts[1].step(Elapsed(), now)
    rafts[1].step(EntriesAppended(term=1, voter=2, sent=now, match=rafts[1].log.end), now)
    assert first is not None and leading.quorum_contact(rafts[1], role, now) > first
    assert progress.sent is not None
    out = rafts[1].step(EntriesAppended(term=1, voter=3, sent=progress.sent, blank=True), now + 0.01)
    assert progress.blank_since == now + 0.01 and progress.match == 0
    [again] = [send.message for send in out.after if send.to == 3]
    assert isinstance(again, AppendEntries) and not again.sure


def test_of_two_voters_the_leader_goes_on_over_the_lost_disk_of_the_other() -> None:
    """Nobody can have been elected without it."""
    rafts, now = led()
    deliver(rafts, 1, RemoveVoter(3), now)
    del rafts[3]
    now += SETTINGS.heartbeat_s
    deliver(rafts, 1, Elapsed(), now)
    term = rafts[1].term
    rafts[2] = Raft(2, Stored(0, None, Snapshot(0, 0, VOTERS), (), blank=True), SETTINGS, 2, now)
    for _ in range(5):
        now += SETTINGS.heartbeat_s
        deliver(rafts, 1, Elapsed(), now)
        assert isinstance(rafts[1].role, Leader)
    assert rafts[1].term == term and not rafts[2].blank and rafts[2].committed == rafts[1].committed


def test_two_voters_are_a_majority_of_three_until_the_third_ones_removal_is_committed() -> None:
    """Those that were three may have elected somebody else."""
    rafts, now = led()
    # The entry that removes 3 reaches nobody.
    alone = {1: rafts[1]}
    deliver(alone, 1, RemoveVoter(3), now)
    assert rafts[1].log.voters == (1, 2)
    alone[2] = empty(2, now)
    committed = rafts[1].committed
    for _ in range(5):
        now += SETTINGS.heartbeat_s
        deliver(alone, 1, Elapsed(), now)
    assert rafts[1].committed == committed and rafts[2] is not alone[2] and alone[2].blank
    assert not isinstance(rafts[1].role, Leader)


def test_a_blank_voter_that_knows_of_a_third_one_elects_nobody_who_does_not() -> None:
    """1 was away while 2 added 3 and both decided; then 2 loses its disk. Of 1 and 2, both are there and agree."""
    away = Stored(1, 2, Snapshot(5, 1, (1, 2), b"what 1 and 2 had"), ())
    for told, elects in (((1, 2), True), ((), True), ((1, 2, 3), False)):
        rafts = {
            1: Raft(1, away, SETTINGS, 1, 0.0),
            2: Raft(2, Stored(0, None, Snapshot(0, 0, told), (), blank=True), SETTINGS, 2, 0.0),
        }
        now = 0.0
        while now < 5 * SETTINGS.election_max_s and not isinstance(rafts[1].role, Leader):
            now += 0.01
            if rafts[1].deadline <= now:
                deliver(rafts, 1, Elapsed(), now)
        assert isinstance(rafts[1].role, Leader) is elects, told
