"""What a follower decides, and that it comes to agree with its leader (kafka.md 6.3)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from logeion.actors.messages import FetchLog, LogFetched, Peer, Persisted, Slice, Watermark
from logeion.actors.partition.effects import SendLog, Tell
from logeion.actors.partition.machine import Machine
from logeion.actors.replica.machine import (
    ANSWER_S,
    REDIAL_MAX_S,
    REDIAL_S,
    Append,
    Commit,
    Dial,
    Effect,
    Fetch,
    Hangup,
    ReplicaMachine,
    Report,
    Reset,
    Sync,
    Trim,
    Truncate,
)
from logeion.log.epochs import EpochCache

E = TypeVar("E")


def part(epoch: int = 7, leader: int = 1, **changes: Any) -> Slice:
    fields: dict[str, Any] = {
        "topic_id": "t",
        "partition": 0,
        "leader": leader,
        "leader_epoch": epoch,
        "partition_epoch": 5,
        "replicas": [1, 2, 3],
        "isr": [1, 2, 3],
        "broker_epoch": 200,
        "peers": {
            1: Peer(host="a", port=9001, broker_epoch=100, eligible=True),
            3: Peer(host="c", port=9003, broker_epoch=300, eligible=True),
        },
        "applied": epoch * 10,
    }
    return Slice(**(fields | changes))


def follower(epochs: Sequence[tuple[int, int]] = (), end: int = 0, **options: Any) -> ReplicaMachine:
    settings: dict[str, Any] = {
        "node": 2,
        "incarnation": 9,
        "directory_id": "dir2",
        "slice": part(),
        "epochs": EpochCache(list(epochs)),
        "end": end,
        "synced_end": end,
        "high_watermark": 0,
        "log_start": 0,
        "durable": True,
    }
    return ReplicaMachine(**(settings | options))


def fetching(machine: ReplicaMachine, now: float = 0.0) -> FetchLog:
    """Start, connect, and see the first fetch."""
    (dial,) = only(machine.start(now), Dial)
    (fetch,) = only(machine.connected(dial.dial, now), Fetch)
    return fetch.message


def answer(**changes: Any) -> LogFetched:
    fields: dict[str, Any] = {"epoch": 7, "log_start": 0, "high_watermark": 0, "end": 100}
    return LogFetched(**(fields | changes))


def only(effects: Sequence[Effect], kind: Callable[..., E]) -> list[E]:
    return [effect for effect in effects if type(effect) is kind]  # type: ignore[misc]


def test_it_dials_the_leader_and_says_what_it_has() -> None:
    machine = follower([(3, 0), (5, 10)], 30, high_watermark=20, log_start=4)
    assert only(machine.start(0.0), Dial) == [Dial(1, 1, "a", 9001)]
    assert machine.connected(1, 0.0) == [
        Fetch(
            1,
            FetchLog(
                epoch=7,
                node=2,
                broker_epoch=200,
                incarnation=9,
                directory_id="dir2",
                offset=30,
                last_epoch=5,
                durable_end=30,
                log_start=4,
                high_watermark=20,
                max_bytes=4_194_304,
                wait_ms=30_000,
                partition_epoch=5,
            ),
        )
    ]


def test_it_asks_for_more_while_it_syncs_what_came_and_then_tells_that_it_has_it() -> None:
    machine = follower()
    fetching(machine)
    assert machine.answered(1, answer(high_watermark=4, end=10), 500, 0.0) == [Append(1)]
    effects = machine.written(10, 0.0)
    assert [type(effect) for effect in effects] == [Fetch, Commit, Sync]
    (fetch,) = only(effects, Fetch)
    assert (fetch.message.offset, fetch.message.durable_end, fetch.message.high_watermark) == (10, 0, 4)
    assert machine.synced(10, 0.0) == [Report(1, Persisted(epoch=7, incarnation=9, durable_end=10, partition_epoch=5))]
    assert machine.synced(10, 0.0) == []


def test_without_flush_what_is_written_is_what_it_has() -> None:
    machine = follower(durable=False)
    fetching(machine)
    machine.answered(1, answer(), 500, 0.0)
    (fetch,) = machine.written(10, 0.0)
    assert isinstance(fetch, Fetch) and fetch.message.durable_end == 10


def test_one_sync_at_a_time_covers_what_came_meanwhile() -> None:
    machine = follower()
    fetching(machine)
    machine.answered(1, answer(), 500, 0.0)
    assert Sync() in machine.written(10, 0.0)
    machine.answered(1, answer(), 500, 0.0)
    assert Sync() not in machine.written(20, 0.0)
    effects = machine.synced(10, 0.0)
    assert [type(effect) for effect in effects] == [Report, Sync]
    assert machine.synced(20, 0.0) == [Report(1, Persisted(epoch=7, incarnation=9, durable_end=20, partition_epoch=5))]


def test_nothing_is_fetched_before_what_was_found_is_synced() -> None:
    machine = follower([(3, 0)], 30, synced_end=10)
    assert [type(effect) for effect in machine.start(0.0)] == [Sync, Dial]
    assert machine.connected(1, 0.0) == []
    (fetch,) = only(machine.synced(30, 0.0), Fetch)
    assert (fetch.message.offset, fetch.message.durable_end) == (30, 30)


def test_the_watermark_is_the_leaders_capped_by_our_end_and_does_not_fall() -> None:
    machine = follower()
    fetching(machine)
    machine.answered(1, answer(high_watermark=50), 500, 0.0)
    assert Commit(10) in machine.written(10, 0.0)
    assert machine.watermark(1, Watermark(epoch=7, high_watermark=9, log_start=0), 0.0) == []
    assert machine.high_watermark == 10
    assert machine.watermark(1, Watermark(epoch=6, high_watermark=99, log_start=0), 0.0) == []


def test_the_log_start_follows_the_leaders_but_not_past_the_watermark() -> None:
    machine = follower([(3, 0)], 30, high_watermark=10)
    fetching(machine)
    effects = machine.answered(1, answer(high_watermark=20, log_start=5), 0, 0.0)
    assert [type(effect) for effect in effects] == [Commit, Trim, Fetch]
    machine.trimmed(5)
    assert machine.watermark(1, Watermark(epoch=7, high_watermark=20, log_start=25), 0.0) == [Trim(20)]


@pytest.mark.parametrize(
    ("epochs", "end", "diverging", "cut"),
    [
        # The leader's epoch is shorter than ours.
        ([(3, 0)], 30, (3, 20), 20),
        # Our tail is of an epoch that the leader never had; our largest below it ends first.
        ([(3, 0), (5, 10)], 30, (3, 20), 10),
        # The leader has more of that epoch than we do: nothing of ours is wrong but an empty epoch (KAFKA-10706).
        ([(3, 0), (5, 30)], 30, (3, 40), 30),
        # The leader's epoch is one that we never had: ours below it ends where the next began (KIP-279).
        ([(2, 0), (5, 10)], 30, (4, 25), 10),
        # All our epochs are above it.
        ([(5, 10)], 30, (3, 25), 10),
    ],
)
def test_a_diverging_log_is_cut_to_where_both_may_agree(
    epochs: list[tuple[int, int]], end: int, diverging: tuple[int, int], cut: int
) -> None:
    machine = follower(epochs, end, high_watermark=0)
    fetching(machine)
    effects = machine.answered(
        1, answer(high_watermark=99, diverging_epoch=diverging[0], diverging_end=diverging[1]), 0, 0.0
    )
    # Nothing else of that answer counts (KAFKA-14704).
    assert effects == [Truncate(cut, False)]
    machine.epochs.truncate_end(cut)
    (fetch,) = only(machine.cut(cut, 0, 0, 0.0), Fetch)
    assert fetch.message.offset == cut and machine.high_watermark == 0


def test_a_cut_below_the_watermark_is_marked_as_what_it_is() -> None:
    machine = follower([(3, 0)], 30, high_watermark=25)
    fetching(machine)
    assert machine.answered(1, answer(diverging_epoch=3, diverging_end=20), 0, 0.0) == [Truncate(20, True)]
    machine.cut(20, 20, 0, 0.0)
    assert machine.high_watermark == 20


def test_a_log_that_parts_from_its_leader_s_below_where_that_begins_is_begun_anew_there() -> None:
    """The leader has deleted up to 18, within its batch at 16 of epoch 1; 16 and 17 of epoch 0 are not what it has."""
    machine = follower([(0, 0)], 22, high_watermark=10)
    fetching(machine)
    effects = machine.answered(1, answer(log_start=18, diverging_epoch=0, diverging_end=18), 0, 0.0)
    assert effects == [Reset(18)]
    machine.epochs.truncate_end(-1)
    (fetch,) = only(machine.cut(18, 18, 18, 0.0), Fetch)
    assert (fetch.message.offset, fetch.message.last_epoch) == (18, -1)


def test_a_divergence_without_anything_to_cut_does_not_go_round_for_ever() -> None:
    machine = follower([(3, 0)], 30)
    fetching(machine)
    machine.answered(1, answer(diverging_epoch=3, diverging_end=30), 0, 0.0)
    assert only(machine.cut(30, 0, 0, 0.0), Fetch)
    machine.answered(1, answer(diverging_epoch=3, diverging_end=30), 0, 0.0)
    effects = machine.cut(30, 0, 0, 0.0)
    assert effects == [Hangup(1)] and machine.deadline is not None


def test_an_end_before_the_leaders_start_means_to_begin_there() -> None:
    machine = follower([(3, 0)], 30, high_watermark=30)
    fetching(machine)
    assert machine.answered(1, answer(code=1, log_start=50, high_watermark=80), 0, 0.0) == [Reset(50)]
    machine.epochs.truncate_end(-1)
    (fetch,) = only(machine.cut(50, 50, 50, 0.0), Fetch)
    assert (fetch.message.offset, fetch.message.last_epoch, fetch.message.high_watermark) == (50, -1, 50)


def test_an_empty_log_beyond_the_leaders_end_begins_anew_too() -> None:
    machine = follower([], 500, log_start=500, high_watermark=500)
    fetching(machine)
    assert machine.answered(1, answer(code=1, log_start=20), 0, 0.0) == [Reset(20)]


@pytest.mark.parametrize("epoch", [6, 8])
def test_an_answer_of_another_epoch_is_not_heeded(epoch: int) -> None:
    machine = follower([(3, 0)], 30)
    fetching(machine)
    assert machine.answered(1, answer(epoch=epoch, high_watermark=30), 500, 0.0) == [Hangup(1)]
    assert machine.high_watermark == 0


def test_what_an_earlier_dial_brings_is_not_heeded() -> None:
    machine = follower()
    fetching(machine)
    effects = machine.slice_changed(part(8, leader=3), 1.0)
    assert effects == [Hangup(1), Dial(2, 3, "c", 9003)]
    assert machine.answered(1, answer(epoch=8), 500, 1.0) == []
    assert machine.connected(1, 1.0) == [Hangup(1)]
    assert machine.disconnected(1, 1.0) == []
    (fetch,) = only(machine.connected(2, 1.0), Fetch)
    assert fetch.message.epoch == 8
    assert machine.watermark(1, Watermark(epoch=8, high_watermark=0, log_start=0), 1.0) == []


def test_a_slice_of_the_same_epoch_restarts_nothing() -> None:
    machine = follower()
    fetching(machine)
    assert machine.slice_changed(part(partition_epoch=9, applied=99), 1.0) == []
    assert machine.slice_changed(part(6, applied=100), 1.0) == []
    assert machine.slice.leader_epoch == 7
    moved = part(peers={1: Peer(host="b", port=9001, broker_epoch=100, eligible=True)}, applied=101)
    assert machine.slice_changed(moved, 1.0) == [Hangup(1), Dial(2, 1, "b", 9001)]
    registered_again = part(peers=moved.peers, broker_epoch=201, applied=102)
    assert machine.slice_changed(registered_again, 1.0) == [Hangup(2), Dial(3, 1, "b", 9001)]


@pytest.mark.parametrize("leader", [-1, 2])
def test_without_another_leader_nobody_is_dialled(leader: int) -> None:
    machine = follower()
    fetching(machine)
    assert machine.slice_changed(part(8, leader=leader), 1.0) == [Hangup(1)]
    assert machine.deadline is None


def pauses(machine: ReplicaMachine, count: int, *, host_gone: bool) -> list[float]:
    now, found = 0.0, []
    for _ in range(count):
        machine.disconnected(machine.dial, now, host_gone=host_gone)
        assert machine.deadline is not None
        found.append(machine.deadline - now)
        now = machine.deadline
        assert [type(effect) for effect in machine.tick(now)] == [Dial]
    return found


def test_a_leader_that_should_come_up_is_dialled_often_for_a_second_and_then_ever_more_rarely() -> None:
    machine = follower()
    machine.start(0.0)
    found = pauses(machine, 80, host_gone=False)
    soon = [pause for pause in found if pause < REDIAL_S * 1.01]
    assert 1.0 <= sum(soon) < 1.1 and found[: len(soon)] == pytest.approx(soon)
    assert found[-1] == pytest.approx(REDIAL_MAX_S)
    machine.connected(machine.dial, 100.0)
    machine.answered(machine.dial, answer(), 0, 100.0)
    machine.disconnected(machine.dial, 100.0)
    assert machine.deadline == pytest.approx(100.0 + REDIAL_S)


def test_a_host_that_is_gone_is_dialled_ever_more_rarely_from_the_start() -> None:
    machine = follower()
    machine.start(0.0)
    found = pauses(machine, 10, host_gone=True)
    assert found[:3] == pytest.approx([REDIAL_S, 2 * REDIAL_S, 4 * REDIAL_S]) and found[-1] == REDIAL_MAX_S
    machine.slice_changed(part(8, leader=3), 9.0)
    machine.disconnected(machine.dial, 9.0)
    assert machine.deadline == pytest.approx(9.0 + REDIAL_S)


def test_a_replica_out_of_the_isr_says_at_once_that_it_has_heard_of_it() -> None:
    machine = follower()
    fetching(machine)
    assert machine.slice_changed(part(partition_epoch=6, isr=[1], applied=99), 1.0) == [
        Report(1, Persisted(epoch=7, incarnation=9, durable_end=0, partition_epoch=6))
    ]
    assert machine.slice_changed(part(partition_epoch=7, isr=[1, 2], applied=100), 1.0) == []


@pytest.mark.parametrize("code", [74, 75, 77, 9, 6])
def test_a_refused_fetch_is_tried_again_a_little_later(code: int) -> None:
    machine = follower()
    fetching(machine)
    assert machine.answered(1, answer(code=code, epoch=7), 0, 0.0) == [Hangup(1)]
    assert machine.deadline is not None and 0 < machine.deadline <= 0.02


def test_a_leader_that_does_not_answer_in_time_is_dialled_again() -> None:
    machine = follower(wait_ms=1_000)
    fetching(machine)
    assert machine.deadline == pytest.approx(1 + ANSWER_S)
    assert machine.tick(0.9 + ANSWER_S) == []
    assert machine.tick(1 + ANSWER_S) == [Hangup(1)]


def test_a_payload_that_cannot_be_kept_is_fetched_again() -> None:
    machine = follower()
    fetching(machine)
    machine.answered(1, answer(), 500, 0.0)
    assert machine.append_failed(0.0) == [Hangup(1)]
    assert machine.end == 0
    machine.tick(1.0)
    machine.connected(2, 1.0)
    machine.answered(2, answer(), 30, 1.0)
    # Not one whole batch.
    assert machine.written(0, 1.0) == [Hangup(2)]


def test_a_cut_while_a_sync_is_under_way_is_not_undone_by_it() -> None:
    machine = follower([(3, 0)], 10)
    fetching(machine)
    machine.answered(1, answer(), 500, 0.0)
    machine.epochs.assign(4, 10)
    assert Sync() in machine.written(30, 0.0)
    machine.answered(1, answer(diverging_epoch=3, diverging_end=20), 0, 0.0)
    machine.epochs.truncate_end(10)
    machine.cut(10, 0, 0, 0.0)
    machine.synced(30, 0.0)
    assert machine.durable_end == 10


def test_a_throttled_replica_out_of_the_isr_fetches_no_more_than_it_may() -> None:
    machine = follower(slice=part(isr=[1], throttle=1_000_000), durable=False)
    assert fetching(machine).max_bytes == 500_000
    now, fetched, end = 0.0, 0, 0
    while now < 10:
        machine.answered(1, answer(), 400_000, now)
        fetched += 400_000
        end += 10
        if not only(machine.written(end, now), Fetch):
            assert machine.deadline is not None
            now = machine.deadline
            assert only(machine.tick(now), Fetch)
    assert 9_500_000 < fetched < 11_500_000
    machine.answered(1, answer(), 2_000_000, now)
    machine.written(end + 10, now)
    assert machine.deadline is not None and machine.deadline > now + 0.5
    machine.slice_changed(part(isr=[1, 2], throttle=1_000_000, applied=99), now)
    assert machine.deadline == now and only(machine.tick(now), Fetch)


def test_a_topic_that_begins_to_sync_says_less_until_it_has() -> None:
    machine = follower(durable=False)
    fetching(machine)
    machine.answered(1, answer(), 500, 0.0)
    machine.written(10, 0.0)
    assert machine.set_durable(True, 0.0) == [Sync()]
    machine.answered(1, answer(), 500, 0.0)
    (fetch,) = only(machine.written(20, 0.0), Fetch)
    assert fetch.message.durable_end == 0
    assert Report(1, Persisted(epoch=7, incarnation=9, durable_end=20, partition_epoch=5)) in machine.synced(20, 0.0)


# Both machines ------------------------------------------------------------------------------------------------------


class Copy:
    """A log of one record a batch: its records, and which epoch each is of."""

    def __init__(self, records: Sequence[tuple[int, str]]) -> None:
        self.records = list(records)
        self.epochs = EpochCache()
        for offset, (epoch, _) in enumerate(records):
            self.epochs.assign(epoch, offset)

    def cut(self, offset: int) -> None:
        del self.records[offset:]
        self.epochs.truncate_end(offset)


def agree(leader: Copy, replica: Copy) -> int:
    """Let the replica follow until it has all; the rounds it took."""
    epoch = max(leader.epochs.latest, replica.epochs.latest) + 1
    leader.epochs.assign(epoch, len(leader.records))
    slice = part(epoch, isr=[1])
    end = len(leader.records)
    machine = Machine(
        node=1,
        epoch=epoch,
        epochs=leader.epochs,
        end=end,
        synced_end=end,
        high_watermark=0,
        slice=part(epoch, isr=[1], broker_epoch=100, peers={2: Peer(host="", port=1, broker_epoch=200, eligible=True)}),
    )
    behind = follower(slice=slice, end=len(replica.records), epochs=())
    behind.epochs = replica.epochs
    waiting: list[FetchLog] = [fetching(behind)]
    rounds = 0
    while waiting:
        rounds += 1
        assert rounds < 100
        answers = [one for one in machine.fetched("lane", waiting.pop(), 0.0) if isinstance(one, SendLog | Tell)]
        if not answers:
            break
        (effect,) = answers
        assert isinstance(effect.message, LogFetched)
        size = 1 if isinstance(effect, SendLog) else 0
        pending: list[Effect] = behind.answered(1, effect.message, size, 0.0)
        while pending:
            match pending.pop(0):
                case Append():
                    assert isinstance(effect, SendLog)
                    offset = effect.offset
                    replica.records.append(leader.records[offset])
                    replica.epochs.assign(leader.records[offset][0], offset)
                    pending += behind.written(offset + 1, 0.0)
                case Truncate(offset=offset):
                    replica.cut(offset)
                    pending += behind.cut(len(replica.records), 0, 0, 0.0)
                case Fetch(message=message):
                    waiting.append(message)
                case Sync():
                    pending += behind.synced(len(replica.records), 0.0)
                case _:
                    pass
    return rounds


def test_fast_double_failover_takes_rounds_and_converges() -> None:
    # KIP-279: each has epochs that the other never saw.
    shared = [(1, "a"), (1, "b")]
    leader = Copy([*shared, (3, "x"), (5, "y")])
    replica = Copy([*shared, (2, "p"), (2, "q"), (4, "r")])
    agree(leader, replica)
    assert replica.records == leader.records


@pytest.mark.parametrize("seed", range(300))
def test_whatever_they_had_they_agree_in_the_end(seed: int) -> None:
    rng = random.Random(seed)
    shared: list[tuple[int, str]] = []
    epoch = 0
    for _ in range(rng.randrange(4)):
        epoch += rng.randrange(1, 3)
        shared += [(epoch, f"s{epoch}.{n}") for n in range(rng.randrange(3))]
    # From here on each epoch was led by one of them, so the other has nothing of it.
    tails: tuple[list[tuple[int, str]], list[tuple[int, str]]] = ([], [])
    for _ in range(rng.randrange(6)):
        epoch += 1
        side = rng.randrange(2)
        tails[side].extend((epoch, f"{side}.{epoch}.{n}") for n in range(rng.randrange(1, 4)))
    leader, replica = Copy(shared + tails[0]), Copy(shared + tails[1])
    for copy in (leader, replica):
        if rng.random() < 0.3:
            epoch += 1
            copy.epochs.assign(epoch, len(copy.records))
    agree(leader, replica)
    assert replica.records == leader.records
