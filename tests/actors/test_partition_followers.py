"""What a leader decides about its followers: their fetches, the watermark, the ISR (kafka.md 6.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from logeion.actors.messages import (
    AlterPartition,
    Appended,
    FetchLog,
    LogFetched,
    PartitionAltered,
    Peer,
    Persisted,
    Refused,
    Slice,
    Watermark,
)
from logeion.actors.partition.effects import (
    Answer,
    Commit,
    Drop,
    Effect,
    Mail,
    ProposeIsr,
    Refuse,
    Resigned,
    SendLog,
    Sync,
    Tell,
    Write,
    Written,
)
from logeion.actors.partition.machine import Machine
from logeion.log.epochs import EpochCache

ALL, LEADER = -1, 1
LAG_S = 1.5
E = TypeVar("E")


def peer(node: int, *, eligible: bool = True, broker_epoch: int | None = None) -> Peer:
    return Peer(
        host="h", port=9000 + node, broker_epoch=node * 100 if broker_epoch is None else broker_epoch, eligible=eligible
    )


def part(isr: Sequence[int] = (1, 2, 3), **changes: Any) -> Slice:
    fields: dict[str, Any] = {
        "topic_id": "t",
        "partition": 0,
        "leader": 1,
        "leader_epoch": 7,
        "partition_epoch": 5,
        "replicas": [1, 2, 3],
        "isr": list(isr),
        "broker_epoch": 100,
        "peers": {2: peer(2), 3: peer(3)},
        "applied": 50,
    }
    return Slice(**(fields | changes))


def leader(isr: Sequence[int] = (1, 2, 3), **options: Any) -> Machine:
    settings: dict[str, Any] = {
        "node": 1,
        "epoch": 7,
        "epochs": EpochCache([(7, 0)]),
        "end": 0,
        "synced_end": 0,
        "high_watermark": 0,
        "durable": False,
        "slice": part(isr),
        "lag_time_max_s": LAG_S,
    }
    return Machine(**(settings | options))


def fetch(node: int, offset: int, **changes: Any) -> FetchLog:
    fields: dict[str, Any] = {
        "epoch": 7,
        "node": node,
        "broker_epoch": node * 100,
        "incarnation": 1,
        "directory_id": f"dir{node}",
        "offset": offset,
        "last_epoch": 7 if offset else -1,
        "durable_end": offset,
        "log_start": 0,
        "high_watermark": 0,
        "max_bytes": 1_000_000,
        "wait_ms": 30_000,
        "partition_epoch": 5,
    }
    return FetchLog(**(fields | changes))


def mail(ticket: str, acks: int = ALL, deadline: float = 60.0) -> Mail:
    return Mail(ticket, 7, acks, deadline, None)


def append(machine: Machine, now: float, *items: Mail) -> list[Effect]:
    """Batches of ten records each."""
    effects: list[Effect] = []
    for effect in machine.take(items):
        if isinstance(effect, Write):
            end = machine.end
            results = [Written(end + 10 * n, end + 10 * n + 9) for n in range(len(effect.batches))]
            effects += machine.written(effect.batches, results, end + 10 * len(effect.batches), now)
        else:
            effects.append(effect)
    return effects


def follow(machine: Machine, *nodes: int, now: float = 0.0) -> None:
    """These have fetched up to the leader's end, durably, and are parked there."""
    for node in nodes:
        machine.fetched(f"lane{node}", fetch(node, machine.end), now)


def persist(machine: Machine, node: int, end: int, now: float = 0.0, **changes: Any) -> list[Effect]:
    """The follower fetches at ``end``, and has it all on disk."""
    return machine.fetched(f"lane{node}", fetch(node, end, **changes), now)


def wait(machine: Machine, until: float) -> list[Effect]:
    """Time passes: the machine is called whenever it asked for it."""
    effects: list[Effect] = []
    while machine.deadline is not None and machine.deadline <= until:
        effects += machine.tick(machine.deadline)
    return effects


def only(effects: Sequence[Effect], kind: Callable[..., E]) -> list[E]:
    return [effect for effect in effects if type(effect) is kind]  # type: ignore[misc]


def answers(effects: Sequence[Effect]) -> dict[object, int]:
    found: dict[object, int] = {effect.mail.ticket: -effect.message.code for effect in only(effects, Refuse)}
    for effect in only(effects, Answer):
        assert isinstance(effect.message, Appended | Refused)
        found[effect.ticket] = (
            effect.message.base_offset if isinstance(effect.message, Appended) else -effect.message.code
        )
    return found


def proposal(effects: Sequence[Effect]) -> AlterPartition:
    (found,) = only(effects, ProposeIsr)
    return found.message


def told(effects: Sequence[Effect]) -> LogFetched:
    (found,) = only(effects, Tell)
    assert isinstance(found.message, LogFetched)
    return found.message


def altered(isr: Sequence[int], partition_epoch: int = 6, leader_epoch: int = 7, leader: int = 1) -> PartitionAltered:
    return PartitionAltered(leader=leader, leader_epoch=leader_epoch, partition_epoch=partition_epoch, isr=list(isr))


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


# The ISR ------------------------------------------------------------------------------------------------------------


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
