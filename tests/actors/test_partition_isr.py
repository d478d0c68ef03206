"""What a leader decides about its in-sync replicas (kafka.md 6.2, rules 7 to 11)."""

from __future__ import annotations

import pytest

from logeion.actors.messages import (
    AlterPartition,
    Persisted,
    Slice,
)
from logeion.actors.partition.effects import (
    Drop,
    ProposeIsr,
    Resigned,
)
from logeion.log.epochs import EpochCache
from tests.actors.leader_world import (
    LAG_S,
    altered,
    answers,
    append,
    fetch,
    follow,
    leader,
    mail,
    only,
    part,
    peer,
    persist,
    proposal,
    told,
    wait,
)


def test_a_follower_joins_once_it_has_all_that_is_committed_and_this_epochs_start() -> None:
    epochs = EpochCache([(3, 0), (7, 20)])
    machine = leader([1, 3], epochs=epochs, end=20, synced_end=20, high_watermark=10)
    assert only(machine.fetched("lane2", fetch(2, 10, last_epoch=3), 0.0), ProposeIsr) == []
    effects = machine.fetched("lane2", fetch(2, 20, last_epoch=3), 0.0)
    assert proposal(effects) == AlterPartition(
        topic_id="t", partition=0, leader_epoch=7, partition_epoch=5, isr=[1, 2, 3], isr_epochs=[100, 200, -1]
    )
    assert machine.isr == {1, 3} and machine.maximal_isr == {1, 2, 3}
    machine.altered(1, altered([1, 2, 3]), 0.0)
    assert machine.isr == {1, 2, 3} and machine.partition_epoch == 6


def test_the_watermark_waits_for_one_that_may_have_joined() -> None:
    machine = leader([1])
    follow(machine, 2)
    assert machine.maximal_isr == {1, 2}
    assert answers(append(machine, 0.1, mail("a"))) == {}
    assert answers(persist(machine, 2, 10, now=0.2)) == {"a": 0}


@pytest.mark.parametrize(
    "slice",
    [
        part([1], peers={2: peer(2, eligible=False), 3: peer(3)}),
        part([1], peers={2: peer(2, broker_epoch=150), 3: peer(3)}),
        part([1], peers={3: peer(3)}),
    ],
)
def test_a_replica_that_may_not_be_in_the_isr_neither_joins_nor_holds_the_watermark(slice: Slice) -> None:
    machine = leader(slice=slice)
    effects = machine.fetched("lane2", fetch(2, 0), 0.0)
    assert only(effects, ProposeIsr) == []
    assert answers(append(machine, 0.1, mail("a"))) == {"a": 0}


def test_one_that_was_taken_out_comes_back_only_after_it_has_heard_of_that() -> None:
    machine = leader()
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a"))
    persist(machine, 2, 10, now=1.0)
    # Its log is lost and its process dead, but its lane still open, and its last words are on their way.
    effects = machine.slice_changed(part([1, 2], partition_epoch=6, applied=51), 1.0)
    assert answers(effects) == {"a": 0}
    assert only(effects, ProposeIsr) == []
    assert only(persist(machine, 3, 10, now=1.0), ProposeIsr) == []
    last = Persisted(epoch=7, incarnation=1, durable_end=10, partition_epoch=5)
    assert only(machine.persisted("lane3", last, 1.0), ProposeIsr) == []
    # Another that was only slow hears of it, and says so.
    heard = Persisted(epoch=7, incarnation=1, durable_end=10, partition_epoch=6)
    assert proposal(machine.persisted("lane3", heard, 1.0)).isr == [1, 2, 3]


def test_one_that_was_out_before_this_epoch_must_have_heard_of_it_too() -> None:
    machine = leader([1, 3])
    assert only(machine.fetched("lane2", fetch(2, 0, partition_epoch=4), 0.0), ProposeIsr) == []
    assert only(machine.fetched("lane2", fetch(2, 0, partition_epoch=5), 0.0), ProposeIsr) != []


def test_a_member_that_may_not_stay_is_proposed_out_at_once() -> None:
    machine = leader()
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a"))
    persist(machine, 2, 10, now=1.0)
    shutting_down = part(peers={2: peer(2), 3: peer(3, eligible=False)}, applied=51)
    assert proposal(machine.slice_changed(shutting_down, 1.0)).isr == [1, 2]
    assert answers(machine.altered(1, altered([1, 2]), 1.0)) == {"a": 0}
    again = part([1, 2], partition_epoch=6, peers={2: peer(2, broker_epoch=900), 3: peer(3)}, applied=52)
    assert proposal(machine.slice_changed(again, 1.0)).isr == [1]


def test_a_hung_follower_leaves_after_the_lag_and_nobody_waits_longer() -> None:
    machine = leader(now=100.0)
    follow(machine, 2, 3, now=100.0)
    append(machine, 100.0, mail("a", deadline=1e9))
    persist(machine, 2, 10, now=100.01)
    assert machine.deadline == pytest.approx(100.1)
    assert only(wait(machine, 101.4), ProposeIsr) == []
    assert proposal(wait(machine, 101.7)).isr == [1, 2]
    assert answers(machine.altered(1, altered([1, 2]), 101.52)) == {"a": 0}


def test_an_answer_that_overtakes_a_higher_minimum_moves_nothing_until_the_log_has_told_of_both() -> None:
    machine = leader([1, 2])
    follow(machine, 2)
    append(machine, 1.0, mail("a", deadline=1e9))
    machine.lane_closed("lane2", 1.0)
    assert proposal(wait(machine, 2.7)).isr == [1]
    # Decided after min.insync.replicas had become 2: the other one is eligible to lead, and lacks the record.
    assert answers(machine.altered(1, altered([1], min_insync=2), 2.7)) == {}
    assert machine.isr == {1} and machine.high_watermark == 0
    # What was set before that, and what is as old, changes nothing.
    assert answers(machine.set_min_insync(1, 2.8)) == {}
    assert answers(machine.slice_changed(part([1, 2], partition_epoch=5, applied=51), 2.8)) == {}
    assert answers(append(machine, 2.8, mail("b"))) == {"b": -19}
    machine.set_min_insync(2, 2.9)
    assert answers(machine.slice_changed(part([1], partition_epoch=6, applied=52), 2.9)) == {}
    # Only what the log says counts from now on.
    assert answers(machine.set_min_insync(1, 3.0)) == {"a": 0}


def test_an_answer_to_what_the_log_has_told_already_says_nothing_of_the_minimum() -> None:
    machine = leader([1, 2])
    follow(machine, 2)
    append(machine, 1.0, mail("a", deadline=1e9))
    machine.lane_closed("lane2", 1.0)
    assert proposal(wait(machine, 2.7)).isr == [1]
    assert answers(machine.slice_changed(part([1], partition_epoch=6, applied=52), 2.7)) == {"a": 0}
    machine.altered(1, altered([1], min_insync=2), 2.7)
    assert machine.min_isr == 1


@pytest.mark.parametrize("replicas", [[1], [1, 2]])
def test_a_leader_that_was_elected_uncleanly_says_once_that_it_serves(replicas: list[int]) -> None:
    machine = leader(slice=part([1], replicas=replicas, recovering=True))
    assert proposal(machine.start(0.0)).isr == [1]
    # Nobody answers: it says so again.
    assert only(machine.altered(1, 0, 0.1), ProposeIsr) == []
    assert proposal(wait(machine, 0.3)).isr == [1]
    assert only(machine.altered(2, altered([1]), 0.4), ProposeIsr) == []
    assert only(wait(machine, 2.0), ProposeIsr) == [], "the slice that says so is on its way"
    effects = machine.slice_changed(part([1], replicas=replicas, partition_epoch=6, applied=51), 2.0)
    assert only(effects + wait(machine, 4.0), ProposeIsr) == []


def test_a_follower_parked_at_the_end_is_caught_up_however_long_nothing_comes() -> None:
    machine = leader()
    follow(machine, 2, 3)
    assert machine.deadline is not None and machine.deadline >= 30.0
    assert machine.tick(29.0) == []


def test_a_follower_whose_lane_is_gone_lags_though_nothing_comes() -> None:
    machine = leader()
    follow(machine, 2, 3)
    machine.lane_closed("lane3", 50.0)
    assert only(wait(machine, 51.0), ProposeIsr) == []
    assert proposal(wait(machine, 51.7)).isr == [1, 2]


def test_a_leader_that_was_stopped_credits_nobody_with_the_future() -> None:
    machine = leader([1, 2])
    follow(machine, 2)
    append(machine, 1.0, mail("a", deadline=1e9))
    # It is stopped for a minute; the follower is heard of before the clock is looked at.
    persist(machine, 2, 10, now=61.0)
    append(machine, 61.0, mail("b", deadline=1e9))
    assert only(machine.tick(61.0), ProposeIsr) == []
    assert only(wait(machine, 62.4), ProposeIsr) == []
    assert proposal(wait(machine, 62.7)).isr == [1], "after the usual lag, not a minute later"


def test_one_that_never_comes_leaves_after_the_lag() -> None:
    machine = leader(now=10.0)
    machine.start(10.0)
    follow(machine, 2, now=10.0)
    assert machine.deadline == pytest.approx(10.1)
    assert proposal(wait(machine, 11.7)).isr == [1, 2]


def test_a_follower_that_is_always_a_little_behind_stays() -> None:
    machine = leader()
    follow(machine, 2, 3)
    for step in range(1, 100):
        now = step * 0.1
        append(machine, now, mail(f"{step}"))
        for node in (2, 3):
            machine.fetched(f"lane{node}", fetch(node, machine.end - 10, durable_end=max(machine.end - 20, 0)), now)
        assert only(machine.tick(now), ProposeIsr) == []
    assert machine.isr == {1, 2, 3}


def test_one_that_falls_behind_ever_more_leaves() -> None:
    machine = leader()
    follow(machine, 2, 3)
    for step in range(1, 40):
        now = step * 0.1
        append(machine, now, mail(f"{step}"))
        persist(machine, 2, machine.end, now=now)
        machine.fetched("lane3", fetch(3, machine.end // 40 * 10), now)
        found = only(machine.tick(now), ProposeIsr)
        if found:
            assert found[0].message.isr == [1, 2] and now > LAG_S
            return
    raise AssertionError("it stayed")


def test_a_leader_that_was_stopped_does_not_blame_its_followers() -> None:
    machine = leader()
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a", deadline=1e9))
    assert machine.deadline == pytest.approx(1.1)
    # It is continued ten seconds later: what they said meanwhile is still to be read.
    assert only(machine.tick(11.0), ProposeIsr) == []
    assert machine.deadline == pytest.approx(11.1)
    persist(machine, 2, 10, now=11.0)
    at = 11.0
    while not only(machine.tick(at), ProposeIsr):
        at += 0.1
    assert 1.2 < at - 11.0 < 1.7


def test_one_proposal_is_under_way_at_a_time_and_the_next_follows_its_answer() -> None:
    machine = leader([1])
    assert proposal(machine.fetched("lane2", fetch(2, 0), 0.0)).isr == [1, 2]
    assert only(machine.fetched("lane3", fetch(3, 0), 0.0), ProposeIsr) == []
    # What it said before, it said without knowing of this one: it may be dead since, its log lost.
    assert only(machine.altered(1, altered([1, 2]), 0.0), ProposeIsr) == []
    heard = Persisted(epoch=7, incarnation=1, durable_end=0, partition_epoch=6)
    assert proposal(machine.persisted("lane3", heard, 0.0)).isr == [1, 2, 3]


@pytest.mark.parametrize("code", [107, 55])
def test_a_proposal_refused_for_a_member_is_as_if_it_had_not_been_made(code: int) -> None:
    machine = leader([1])
    follow(machine, 2)
    append(machine, 0.1, mail("a"))
    machine.lane_closed("lane2", 0.1)
    assert answers(machine.altered(1, code, 0.2)) == {"a": 0}
    assert machine.maximal_isr == {1}


@pytest.mark.parametrize("code", [74, 95, 42, 3, 100])
def test_a_proposal_refused_because_we_are_late_is_pending_until_a_newer_slice(code: int) -> None:
    machine = leader([1])
    follow(machine, 2)
    machine.altered(1, code, 0.1)
    assert machine.maximal_isr == {1, 2}
    assert only(machine.tick(1.0), ProposeIsr) == []
    machine.slice_changed(part([1], applied=51), 1.0)
    assert machine.maximal_isr == {1, 2}
    machine.slice_changed(part([1, 2], partition_epoch=6, applied=52), 1.0)
    assert machine.isr == machine.maximal_isr == {1, 2}


@pytest.mark.parametrize("code", [0, 41, 7, 77])
def test_a_proposal_without_a_useful_answer_is_made_again_word_for_word(code: int) -> None:
    machine = leader([1])
    first = proposal(machine.fetched("lane2", fetch(2, 0), 0.0))
    machine.altered(1, code, 0.5)
    assert machine.deadline == pytest.approx(0.6)
    (again,) = only(machine.tick(0.6), ProposeIsr)
    assert (again.number, again.message) == (2, first)
    # The first one's answer is late, but an answer all the same is only the second one's.
    machine.altered(1, 107, 0.7)
    assert machine.maximal_isr == {1, 2}
    machine.altered(2, altered([1, 2]), 0.7)
    assert machine.isr == {1, 2}


def test_a_proposal_made_again_does_not_vouch_for_a_later_start_of_its_member() -> None:
    machine = leader([1, 2], end=20, synced_end=20)
    follow(machine, 2)
    first = proposal(machine.fetched("lane3", fetch(3, 20), 0.0))
    assert first.isr == [1, 2, 3] and first.isr_epochs == [100, 200, 300]
    # Its power goes with all it had before the proposal is answered; it registers anew, and begins from nothing.
    machine.fetched("later", fetch(3, 0, broker_epoch=301, incarnation=2), 0.05)
    machine.altered(1, 0, 0.1)
    assert proposal(wait(machine, 0.3)) == first


def test_a_slice_with_an_old_partition_epoch_does_not_undo_what_was_granted() -> None:
    machine = leader([1])
    follow(machine, 2)
    machine.altered(1, altered([1, 2]), 0.0)
    machine.slice_changed(part([1], partition_epoch=5, applied=60), 0.0)
    assert machine.isr == {1, 2} and machine.partition_epoch == 6
    machine.altered(1, altered([1], 4), 0.0)
    assert machine.isr == {1, 2}


def test_an_equal_leader_epoch_changes_the_isr_only() -> None:
    machine = leader([1])
    follow(machine, 2)
    append(machine, 1.0, mail("a"))
    machine.slice_changed(part([1, 2], partition_epoch=6, applied=51), 1.0)
    assert machine.epoch_start == 0 and machine.followers[2].lane == "lane2"
    assert answers(persist(machine, 2, 10)) == {"a": 0}


def test_a_node_that_is_no_replica_any_more_is_forgotten_and_a_new_one_is_fed() -> None:
    machine = leader()
    follow(machine, 2, 3)
    moved = part([1, 2], partition_epoch=6, replicas=[1, 2, 4], peers={2: peer(2), 4: peer(4)}, applied=51)
    effects = machine.slice_changed(moved, 1.0)
    assert [drop.lane for drop in only(effects, Drop)] == ["lane3"]
    assert told(machine.fetched("x", fetch(3, 0), 1.0)).code == 9
    assert proposal(machine.fetched("lane4", fetch(4, 0, partition_epoch=6), 1.0)).isr == [1, 2, 4]


@pytest.mark.parametrize(
    "slice",
    [part(leader=2, leader_epoch=8, applied=51), part(leader_epoch=8, applied=51), part(leader=-1, leader_epoch=8)],
)
def test_another_epoch_ends_this_leadership(slice: Slice) -> None:
    machine = leader()
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a"))
    machine.fetched("lane2", fetch(2, 10), 1.0)
    effects = machine.slice_changed(slice, 1.0)
    assert answers(effects) == {"a": -6}
    assert [drop.lane for drop in only(effects, Drop)] == ["lane2", "lane3"]
    assert effects[-1] == Resigned() and machine.deadline is None
    assert told(machine.fetched("x", fetch(2, 10), 1.0)).code == 6
    assert answers(append(machine, 1.0, mail("b"))) == {"b": -6}
    assert machine.persisted("lane3", Persisted(epoch=7, incarnation=1, durable_end=10), 1.0) == []
    assert machine.tick(9.0) == []


def test_a_granted_change_that_costs_the_leadership_ends_it() -> None:
    machine = leader([1])
    follow(machine, 2)
    assert Resigned() in machine.altered(1, altered([1, 2], leader=2, leader_epoch=8), 0.0)


def test_followers_that_are_away_for_good_cost_no_timer() -> None:
    machine = leader()
    follow(machine, 2, 3)
    machine.lane_closed("lane3", 1.0)
    wait(machine, 3.0)
    machine.altered(1, altered([1, 2]), 3.0)
    wait(machine, 3.2)
    assert machine.deadline is not None and machine.deadline >= 30.0


def test_how_far_everybody_is_can_be_told() -> None:
    machine = leader([1, 2])
    follow(machine, 2)
    append(machine, 1.0, mail("a"))
    described = machine.described(1.25)
    assert [(one.node, one.end, one.lag_ms, one.connected) for one in described] == [
        (2, 0, 250, True),
        (3, -1, -1, False),
    ]
