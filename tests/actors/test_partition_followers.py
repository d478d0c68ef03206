"""What a leader decides about its followers: their fetches, the watermark, their starts (kafka.md 6.2)."""

from __future__ import annotations

import pytest

from logeion.actors.messages import (
    LogFetched,
    Persisted,
    Watermark,
)
from logeion.actors.partition.effects import (
    Commit,
    Drop,
    ProposeIsr,
    SendLog,
    Sync,
    Tell,
)
from logeion.log.epochs import EpochCache
from tests.actors.leader_world import (
    LEADER,
    altered,
    answers,
    append,
    fetch,
    follow,
    leader,
    mail,
    only,
    part,
    persist,
    proposal,
    told,
    wait,
)

# Fetches ------------------------------------------------------------------------------------------------------------


def test_a_parked_fetch_is_answered_with_what_is_appended_before_the_leader_has_synced_it() -> None:
    machine = leader(durable=True)
    follow(machine, 2, 3)
    effects = append(machine, 1.0, mail("a"))
    kinds = [type(effect) for effect in effects]
    assert kinds == [SendLog, SendLog, Sync]
    sent = only(effects, SendLog)
    assert [(one.lane, one.offset) for one in sent] == [("lane2", 0), ("lane3", 0)]
    assert sent[0].message == LogFetched(epoch=7, log_start=0, high_watermark=0, end=10)


def test_a_fetch_of_another_epoch_is_refused_with_the_epoch_that_is_led() -> None:
    machine = leader()
    assert (told(machine.fetched("x", fetch(2, 0, epoch=6), 0.0)).code, machine.followers[2].lane) == (74, None)
    assert told(machine.fetched("x", fetch(2, 0, epoch=8), 0.0)).code == 75
    assert told(machine.fetched("x", fetch(4, 0), 0.0)).code == 9
    assert told(machine.fetched("x", fetch(2, 0, broker_epoch=199), 0.0)).code == 77


def test_a_fetch_waits_no_longer_than_it_asked_for() -> None:
    machine = leader()
    machine.fetched("lane2", fetch(2, 0, wait_ms=400), 10.0)
    machine.fetched("lane3", fetch(3, 0), 10.0)
    assert machine.deadline == pytest.approx(10.4)
    assert only(machine.tick(10.39), Tell) == []
    (answer,) = only(machine.tick(10.4), Tell)
    assert answer.lane == "lane2" and isinstance(answer.message, LogFetched) and answer.message.end == 0
    assert machine.deadline == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("epochs", "last_epoch", "offset", "diverging"),
    [
        # A tail of an epoch that we had, too long (KIP-101).
        ([(3, 0), (7, 20)], 3, 25, (3, 20)),
        # An epoch that we never had: the largest below it (KIP-279).
        ([(3, 0), (7, 20)], 5, 25, (3, 20)),
        ([(3, 0), (7, 20)], 5, 15, (3, 20)),
        # Of our own epoch, and beyond our end.
        ([(3, 0), (7, 20)], 7, 45, (7, 40)),
        # An epoch above ours.
        ([(3, 0), (7, 20)], 9, 30, (7, 40)),
    ],
)
def test_where_the_logs_part_is_all_a_diverging_follower_is_told(
    epochs: list[tuple[int, int]], last_epoch: int, offset: int, diverging: tuple[int, int]
) -> None:
    machine = leader(epochs=EpochCache(epochs), end=40, synced_end=40, high_watermark=10)
    effects = machine.fetched("lane2", fetch(2, offset, last_epoch=last_epoch), 0.0)
    answer = told(effects)
    assert (answer.diverging_epoch, answer.diverging_end) == diverging
    assert only(effects, SendLog) == []
    # It is no progress (KAFKA-13141), and neither is what its old tail's sync brings.
    assert machine.followers[2].end == -1 and machine.high_watermark == 10
    machine.persisted("lane2", Persisted(epoch=7, incarnation=1, durable_end=offset), 0.0)
    assert machine.followers[2].end == -1


def test_an_offset_below_the_start_is_out_of_range_even_if_it_diverges() -> None:
    machine = leader(epochs=EpochCache([(3, 20), (7, 30)]), end=40, high_watermark=40, log_start=20)
    answer = told(machine.fetched("lane2", fetch(2, 15, last_epoch=2), 0.0))
    assert (answer.code, answer.log_start, answer.diverging_epoch) == (1, 20, -1)
    beyond = told(machine.fetched("lane2", fetch(2, 50, last_epoch=-1), 0.0))
    assert (beyond.code, beyond.end) == (1, 40)


def test_a_follower_behind_is_sent_what_it_lacks_at_once() -> None:
    machine = leader(epochs=EpochCache([(3, 0), (7, 20)]), end=40, high_watermark=10)
    (sent,) = only(machine.fetched("lane2", fetch(2, 15, last_epoch=3), 0.0), SendLog)
    assert (sent.offset, sent.max_bytes, sent.message.end) == (15, 1_000_000, 40)


# The watermark ------------------------------------------------------------------------------------------------------


def test_the_watermark_is_the_lowest_durable_end_of_the_isr_and_never_falls() -> None:
    machine = leader()
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a"), mail("b"))
    machine.fetched("lane2", fetch(2, 20), 1.0)
    assert machine.high_watermark == 0
    machine.fetched("lane3", fetch(3, 20, durable_end=10), 1.0)
    assert machine.high_watermark == 10
    assert answers(machine.persisted("lane3", Persisted(epoch=7, incarnation=1, durable_end=20), 1.0)) == {"b": 10}
    assert machine.high_watermark == 20
    machine.fetched("lane3", fetch(3, 20, durable_end=5), 1.0)
    assert machine.high_watermark == 20


def test_the_leaders_own_end_counts_only_when_it_is_synced() -> None:
    machine = leader(durable=True)
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a"))
    persist(machine, 2, 10)
    persist(machine, 3, 10)
    assert machine.high_watermark == 0
    assert answers(machine.synced(10, 1.0)) == {"a": 0}


def test_an_isr_member_that_has_not_fetched_in_this_epoch_holds_the_watermark() -> None:
    machine = leader(end=30, synced_end=30, high_watermark=20)
    follow(machine, 2)
    assert machine.high_watermark == 20
    follow(machine, 3)
    assert machine.high_watermark == 30


def test_what_is_said_of_another_epoch_incarnation_or_lane_is_no_progress() -> None:
    machine = leader()
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a"))
    persist(machine, 3, 10)
    machine.fetched("lane2", fetch(2, 10, durable_end=0), 1.0)
    for lane, message in (
        ("lane2", Persisted(epoch=6, incarnation=1, durable_end=10)),
        ("lane2", Persisted(epoch=7, incarnation=0, durable_end=10)),
        ("other", Persisted(epoch=7, incarnation=1, durable_end=10)),
    ):
        machine.persisted(lane, message, 1.0)
        assert machine.high_watermark == 0
    machine.persisted("lane2", Persisted(epoch=7, incarnation=1, durable_end=10), 1.0)
    assert machine.high_watermark == 10


def test_no_more_counts_than_the_last_fetch_that_agreed_had() -> None:
    machine = leader(end=30, synced_end=30, high_watermark=0)
    follow(machine, 3)
    machine.fetched("lane2", fetch(2, 10), 0.0)
    machine.persisted("lane2", Persisted(epoch=7, incarnation=1, durable_end=30), 0.0)
    assert machine.high_watermark == 10


def test_the_watermark_stands_while_the_committed_isr_is_too_small() -> None:
    machine = leader([1], min_insync=2)
    effects = append(machine, 0.0, mail("all"), mail("one", LEADER))
    assert answers(effects) == {"all": -19, "one": 0}
    # A proposal does not make it large enough, its commit does.
    effects = persist(machine, 2, 10)
    assert proposal(effects).isr == [1, 2] and machine.high_watermark == 0
    machine.altered(1, altered([1, 2]), 0.0)
    assert machine.high_watermark == 10


def test_the_smallest_isr_is_capped_by_the_number_of_replicas() -> None:
    machine = leader([1], slice=part([1], replicas=[1], peers={}), min_insync=2)
    assert answers(append(machine, 0.0, mail("a"))) == {"a": 0}


def test_who_waits_when_the_isr_becomes_too_small_waits_on_and_is_answered_if_it_grows_again() -> None:
    machine = leader([1, 2], min_insync=2)
    follow(machine, 2)
    append(machine, 1.0, mail("a", deadline=20.0))
    machine.lane_closed("lane2", 1.0)
    assert proposal(wait(machine, 3.0)).isr == [1]
    assert answers(machine.altered(1, altered([1]), 3.0)) == {}
    assert answers(append(machine, 3.0, mail("b"))) == {"b": -19}
    effects = persist(machine, 2, 10, now=4.0, partition_epoch=6)
    assert proposal(effects).isr == [1, 2]
    assert answers(machine.altered(2, altered([1, 2], 7), 4.0)) == {"a": 0}


def test_an_append_not_replicated_in_time_times_out_and_its_records_stay() -> None:
    machine = leader()
    follow(machine, 2)
    append(machine, 0.0, mail("a", deadline=0.5), mail("b", deadline=0.9))
    assert answers(machine.tick(0.5)) == {"a": -7}
    persist(machine, 2, 20)
    assert answers(persist(machine, 3, 20)) == {"b": 10}


def test_a_lower_min_insync_replicas_frees_the_watermark() -> None:
    machine = leader([1], min_insync=2)
    append(machine, 0.0, mail("one", LEADER))
    assert Commit(10) in machine.set_min_insync(1, 0.0)


def test_a_parked_follower_hears_of_the_watermark_soon() -> None:
    machine = leader()
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a"))
    persist(machine, 2, 10, now=1.0)
    persist(machine, 3, 10, now=1.0)
    assert machine.high_watermark == 10
    assert machine.deadline == pytest.approx(1.05)
    effects = machine.tick(1.05)
    watermark = Watermark(epoch=7, high_watermark=10, log_start=0)
    assert effects == [Tell("lane2", watermark), Tell("lane3", watermark)]
    assert only(machine.tick(1.2), Tell) == []
    machine.trimmed(5, 2.0)
    assert Tell("lane2", Watermark(epoch=7, high_watermark=10, log_start=5)) in machine.tick(2.05)


def test_a_follower_whose_answer_brings_the_watermark_needs_no_other_word() -> None:
    machine = leader()
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a"))
    persist(machine, 2, 10, now=1.0)
    persist(machine, 3, 10, now=1.0)
    (first, _) = only(append(machine, 1.01, mail("b")), SendLog)
    assert first.message.high_watermark == 10
    machine.fetched("lane2", fetch(2, 20, high_watermark=10, durable_end=10), 1.02)
    assert [tell.lane for tell in only(machine.tick(1.06), Tell)] == []


# Starts of followers ------------------------------------------------------------------------------------------------


def test_a_new_start_of_a_follower_is_believed_only_what_it_says_itself() -> None:
    machine = leader(end=20, synced_end=20)
    follow(machine, 2)
    machine.lane_closed("lane2", 1.0)
    # Its log is cut back to where it agrees, below what it had: until then nobody knows what it has.
    machine.fetched("again", fetch(2, 25, incarnation=2), 2.0)
    assert machine.followers[2].end == -1
    machine.fetched("again", fetch(2, 20, incarnation=2, durable_end=20), 2.0)
    assert machine.followers[2].end == 20


def test_an_earlier_start_of_a_follower_is_turned_away() -> None:
    machine = leader()
    machine.fetched("new", fetch(2, 0, incarnation=5), 0.0)
    assert only(machine.fetched("old", fetch(2, 0, incarnation=4), 0.0), Drop)[0].lane == "old"
    assert machine.followers[2].lane == "new"
    (dropped,) = only(machine.fetched("newer", fetch(2, 0, incarnation=6), 0.0), Drop)
    assert dropped.lane == "new"


def test_a_follower_that_lost_what_it_had_acknowledged_gets_nothing_until_it_has_left_the_isr() -> None:
    machine = leader()
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a"))
    persist(machine, 2, 10, now=1.0)
    persist(machine, 3, 10, now=1.0)
    machine.lane_closed("lane2", 1.1)
    effects = machine.fetched("again", fetch(2, 0, incarnation=2), 1.2)
    assert only(effects, SendLog) == []
    assert proposal(effects).isr == [1, 3]
    assert [one.lane for one in only(append(machine, 1.3, mail("b")), SendLog)] == ["lane3"]
    effects = machine.altered(1, altered([1, 3]), 1.4)
    (sent,) = only(effects, SendLog)
    assert (sent.lane, sent.offset) == ("again", 0)
    assert machine.followers[2].end == 0
    effects = machine.fetched("again", fetch(2, 20, incarnation=2, partition_epoch=6), 1.5)
    assert proposal(effects).isr == [1, 2, 3]


def test_a_follower_that_lost_something_does_not_hear_of_the_watermark_while_it_waits() -> None:
    machine = leader()
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a"))
    persist(machine, 2, 10, now=1.0)
    persist(machine, 3, 10, now=1.0)
    effects = machine.fetched("again", fetch(2, 5, incarnation=2, wait_ms=400), 1.2)
    machine.altered(proposal(effects) and 1, 0, 1.2)
    said = [effect.message for effect in only(wait(machine, 2.0), Tell) if effect.lane == "again"]
    assert [message.code for message in said if isinstance(message, LogFetched)] == [9] and len(said) == 1


def test_a_follower_in_another_directory_is_another_replica() -> None:
    machine = leader()
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a"))
    persist(machine, 2, 10, now=1.0)
    effects = machine.fetched("again", fetch(2, 10, incarnation=2, directory_id="other"), 1.2)
    assert proposal(effects).isr == [1, 3] and machine.followers[2].end == -1


def test_what_is_not_yet_synced_after_a_restart_is_not_lost() -> None:
    machine = leader()
    follow(machine, 2, 3)
    append(machine, 1.0, mail("a"))
    persist(machine, 2, 10, now=1.0)
    effects = machine.fetched("again", fetch(2, 10, incarnation=2, durable_end=0), 1.2)
    assert only(effects, ProposeIsr) == [] and machine.followers[2].end == 0
