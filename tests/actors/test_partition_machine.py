"""What a partition's leader decides, without any process, file or clock."""

from __future__ import annotations

import pytest

from logeion.actors.messages import Appended, Refused, Slice, WriterOpened
from logeion.actors.partition.effects import (
    Answer,
    Commit,
    Effect,
    Mail,
    Notify,
    Refuse,
    Resigned,
    Sync,
    Write,
    Written,
)
from logeion.actors.partition.machine import Machine
from logeion.log.epochs import EpochCache
from logeion.wire.errors import (
    InvalidProducerEpochError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumberError,
)

ALL, NONE, LEADER = -1, 0, 1


def leader(**options: object) -> Machine:
    settings: dict[str, object] = {"node": 1, "epoch": 7, "end": 0, "synced_end": 0, "high_watermark": 0}
    settings |= {"epochs": EpochCache([(7, 0)])}
    return Machine(**(settings | options))  # type: ignore[arg-type]


def mail(ticket: str, *, acks: int = ALL, epoch: int = 7, deadline: float = 1.0) -> Mail:
    return Mail(ticket, epoch, acks, deadline, None)


def append(machine: Machine, *items: Mail) -> list[Effect]:
    """Take these batches of ten records each, and write what the machine wants written."""
    effects = machine.take(items)
    for effect in list(effects):
        if isinstance(effect, Write):
            results = []
            end = machine.end
            for _batch in effect.batches:
                results.append(Written(end, end + 9))
                end += 10
            effects.remove(effect)
            effects += machine.written(effect.batches, results, end, 0.0)
    return effects


def answers(effects: list[Effect]) -> dict[object, int]:
    """Ticket -> base offset, or minus the error code."""
    found: dict[object, int] = {}
    for effect in effects:
        if isinstance(effect, Refuse):
            found[effect.mail.ticket] = -effect.message.code
        elif isinstance(effect, Answer):
            message = effect.message
            assert isinstance(message, Appended | Refused)
            found[effect.ticket] = message.base_offset if isinstance(message, Appended) else -message.code
    return found


def test_all_that_waits_is_one_write_and_one_sync_and_answered_together() -> None:
    machine = leader()
    first = machine.take([mail("a"), mail("b"), mail("c")])
    assert [type(effect) for effect in first] == [Write]
    assert isinstance(first[0], Write) and len(first[0].batches) == 3
    after = machine.written(first[0].batches, [Written(0, 9), Written(10, 19), Written(20, 29)], 30, 0.0)
    assert after == [Sync()]
    done = machine.synced(30, 0.0)
    assert done[0] == Commit(30)
    assert answers(done) == {"a": 0, "b": 10, "c": 20}


def test_the_watermark_counts_what_is_written_if_the_topic_does_not_sync() -> None:
    machine = leader(durable=False)
    effects = append(machine, mail("a"))
    assert Sync() not in effects
    assert machine.high_watermark == 10
    assert answers(effects) == {"a": 0}


def test_nothing_is_acknowledged_before_its_sync_not_even_acks_1() -> None:
    machine = leader()
    assert answers(append(machine, mail("one", acks=LEADER), mail("all"))) == {}
    assert machine.high_watermark == 0
    assert answers(machine.synced(20, 0.0)) == {"one": 0, "all": 10}


def test_acks_0_is_answered_as_soon_as_it_is_written() -> None:
    machine = leader()
    assert answers(append(machine, mail("none", acks=NONE))) == {"none": 0}


def test_one_sync_is_under_way_at_a_time_and_the_next_covers_all_that_came_meanwhile() -> None:
    machine = leader()
    assert append(machine, mail("a")) == [Sync()]
    assert append(machine, mail("b")) == []
    assert append(machine, mail("c")) == []
    effects = machine.synced(10, 0.0)
    assert Sync() in effects and answers(effects) == {"a": 0}
    assert answers(machine.synced(30, 0.0)) == {"b": 10, "c": 20}


@pytest.mark.parametrize("epoch", [6, 8])
def test_an_append_of_another_epoch_is_refused_and_names_the_current_one(epoch: int) -> None:
    effects = leader().take([mail("a", epoch=epoch)])
    assert len(effects) == 1
    answer = effects[0]
    assert isinstance(answer, Refuse)
    assert (answer.message.code, answer.message.leader_epoch) == (6, 7)


def test_acks_of_2_is_no_such_thing() -> None:
    assert answers(leader().take([mail("a", acks=2)])) == {"a": -21}


def test_a_refused_batch_leaves_its_neighbours_alone() -> None:
    machine = leader(durable=False)
    batches = [mail("a"), mail("gap"), mail("b")]
    machine.take(batches)
    results = [Written(0, 9), OutOfOrderSequenceNumberError("sequence 7 after 3"), Written(10, 19)]
    assert answers(machine.written(batches, results, 20, 0.0)) == {"a": 0, "gap": -45, "b": 10}


def test_a_duplicate_of_an_uncommitted_batch_waits_for_the_watermark_like_its_first_copy() -> None:
    machine = leader()
    append(machine, mail("first"), mail("second"))
    duplicate = [mail("again")]
    machine.take(duplicate)
    assert answers(machine.written(duplicate, [Written(0, 9)], 20, 0.0)) == {}
    assert answers(machine.synced(10, 0.0)) == {"first": 0, "again": 0}
    assert answers(machine.synced(20, 0.0)) == {"second": 10}


def test_an_append_that_waits_too_long_times_out_and_its_records_stay() -> None:
    machine = leader()
    append(machine, mail("a", deadline=0.5), mail("b", deadline=0.9))
    assert machine.waiting and machine.deadline is not None and machine.deadline <= 0.5
    assert machine.tick(0.499) == []
    assert answers(machine.tick(0.5)) == {"a": -7}
    assert answers(machine.synced(20, 0.6)) == {"b": 10}
    assert machine.end == 20 and not machine.waiting
    machine.tick(1.0)
    assert machine.deadline is None


def test_a_leader_whose_epoch_is_over_refuses_all_that_waits_and_all_that_comes() -> None:
    machine = leader()
    append(machine, mail("a"), mail("b", acks=LEADER))
    machine.watch("lane", "w", 7, 0)
    later = Slice(
        topic_id="", partition=0, leader=2, leader_epoch=8, partition_epoch=3, replicas=[1, 2], isr=[2], broker_epoch=1
    )
    effects = machine.slice_changed(later, 0.0)
    assert answers(effects) == {"a": -6, "b": -6, "w": -6}
    assert effects[-1] == Resigned()
    assert answers(append(machine, mail("late"))) == {"late": -6}
    assert answers(machine.watch("lane", "w2", 7, 0)) == {"w2": -6}
    assert machine.synced(20, 0.0) == [] and machine.high_watermark == 0


def test_a_duplicate_of_a_committed_batch_is_answered_at_once() -> None:
    machine = leader(durable=False)
    append(machine, mail("first"))
    duplicate = [mail("again")]
    machine.take(duplicate)
    assert answers(machine.written(duplicate, [Written(0, 9)], 10, 0.0)) == {"again": 0}


def test_what_an_earlier_epoch_left_unsynced_is_synced_before_the_watermark_reaches_it() -> None:
    machine = leader(end=50, synced_end=30, high_watermark=30)
    assert machine.start(0.0) == [Sync()]
    with pytest.raises(OffsetNotAvailableError):
        machine.latest()
    assert machine.synced(50, 0.0) == [Commit(50)]
    assert machine.latest() == 50


def test_a_watch_is_answered_when_the_watermark_passes_its_offset() -> None:
    machine = leader(durable=False)
    assert machine.watch("lane", "w", 7, 0) == []
    effects = append(machine, mail("a"))
    assert Notify("w") in effects
    assert machine.watch("lane", "w2", 7, 3) == [Notify("w2")]
    assert machine.watch("lane", "w3", 7, -1) == [Notify("w3")]


def test_a_new_watch_of_a_lane_replaces_its_old_one_and_lanes_do_not_disturb_each_other() -> None:
    machine = leader(durable=False)
    assert machine.watch("x", "x1", 7, 0) == []
    assert machine.watch("y", "y1", 7, 15) == []
    assert machine.watch("x", "x2", 7, 5) == [Notify("x1")]
    assert [effect for effect in append(machine, mail("a")) if isinstance(effect, Notify)] == [Notify("x2")]
    machine.lane_closed("y", 0.0)
    assert [effect for effect in append(machine, mail("b")) if isinstance(effect, Notify)] == []


def test_a_watch_of_another_epoch_is_refused() -> None:
    assert answers(leader().watch("lane", "w", 6, 0)) == {"w": -6}


def test_deleting_records_stops_at_the_watermark() -> None:
    machine = leader(end=100, synced_end=100, high_watermark=100, log_start=20)
    assert machine.trim_target(-1) == 100
    assert machine.trim_target(50) == 50
    assert machine.trim_target(10) == 20
    for offset in (101, -2):
        with pytest.raises(OffsetOutOfRangeError):
            machine.trim_target(offset)


def test_a_topic_that_starts_to_sync_syncs_what_it_has() -> None:
    machine = leader(durable=False)
    append(machine, mail("a"))
    assert machine.set_durable(True, 0.0) == [Sync()]
    assert machine.high_watermark == 10


def test_a_writers_new_incarnation_is_told_the_end_and_the_old_one_is_refused() -> None:
    machine = leader(durable=False)
    assert machine.open_writer("o1", 7, "group", 1) == [Answer("o1", WriterOpened(end=0))]
    assert answers(append(machine, Mail("a", 7, ALL, 1.0, None, "group", 1))) == {"a": 0}
    assert machine.open_writer("o2", 7, "group", 2) == [Answer("o2", WriterOpened(end=10))]
    late = Mail("late", 7, ALL, 1.0, None, "group", 1)
    other = Mail("other", 7, ALL, 1.0, None, "never opened", 1)
    assert answers(append(machine, late, other, Mail("new", 7, ALL, 1.0, None, "group", 2))) == {
        "late": -InvalidProducerEpochError.code,
        "other": -InvalidProducerEpochError.code,
        "new": 10,
    }
    assert answers(machine.open_writer("o3", 7, "group", 1)) == {"o3": -InvalidProducerEpochError.code}
    assert answers(machine.open_writer("o4", 6, "group", 3)) == {"o4": -6}
