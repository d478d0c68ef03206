"""Bugs that other replicated logs have had, as scenarios (kafka.md, 6.6): who is in sync, who leads, who may ack."""

from __future__ import annotations

from logeion.actors import messages as m
from logeion.actors.controller.isr import alter
from logeion.actors.node.events import DrainAsked
from logeion.actors.partition.effects import ProposeIsr
from logeion.actors.replica.machine import Dial
from logeion.wire.errors import (
    FencedLeaderEpochError,
    IneligibleReplicaError,
    InvalidTxnStateError,
    InvalidUpdateVersionError,
    NotEnoughReplicasError,
)
from logeion.wire.records import Record, build_batch
from tests.sim.nodes import NodeProcess
from tests.sim.stage import Stage


def proposal(stage: Stage, isr: list[int], **changes: object) -> m.AlterPartition:
    """What the leader would send for this ISR, with the epochs as they are."""
    newest, image = stage.truth.newest, stage.controller().image
    assert newest is not None
    fields: dict[str, object] = {
        "topic_id": stage.key[0],
        "partition": stage.key[1],
        "leader_epoch": newest.leader_epoch,
        "partition_epoch": newest.partition_epoch,
        "isr": isr,
        "isr_epochs": [image.brokers[node].broker_epoch for node in isr],
        "node": newest.leader,
        "broker_epoch": image.brokers[newest.leader].broker_epoch,
    }
    return m.AlterPartition(**{**fields, **changes})  # type: ignore[arg-type]


def refused(stage: Stage, request: m.AlterPartition) -> int:
    """The code of the controller's refusal; it must have decided nothing."""
    decision = stage.controller().handle(request, 1e9)
    assert decision.records == [] and isinstance(decision.reply, m.Refused), decision
    return decision.reply.code


def test_waiters_are_answered_when_a_shrink_lets_the_watermark_move() -> None:
    """KAFKA-13091, KAFKA-13254."""
    stage = Stage()
    producer = stage.producer()
    stage.send(producer)
    hung = stage.followers()[0]
    stage.follower(hung).freeze()
    began = stage.engine.time
    stage.give(producer, 3)
    stage.wait(lambda: not producer.waiting)
    assert hung not in stage.isr
    assert stage.engine.time - began < stage.settings.lag_time_max_s + 0.5
    stage.calm()


def test_a_fenced_or_stopping_replica_is_not_taken_back() -> None:
    """KAFKA-13916, KIP-841."""
    stage = Stage()
    gone = stage.followers()[0]
    everybody = stage.isr
    stage.down(gone)
    stage.wait(lambda: gone in stage.judge.image.fenced and gone not in stage.isr)
    assert refused(stage, proposal(stage, everybody)) == IneligibleReplicaError.code
    stage.hosts[gone].start()
    stage.settle()
    node = stage.hosts[gone].processes["node"]
    assert isinstance(node, NodeProcess)
    node.run(node.step, DrainAsked(request=1, timeout_s=30.0))
    stage.wait(lambda: gone in stage.judge.image.shutting_down and gone not in stage.isr)
    assert refused(stage, proposal(stage, everybody)) == IneligibleReplicaError.code
    leader = stage.leader()
    stage.run(stage.engine.time + 1.0)
    assert gone not in leader.machine.maximal_isr
    stage.down(gone)
    stage.calm()


def test_a_replica_with_an_empty_disk_is_not_taken_back_by_a_late_proposal() -> None:
    """KAFKA-14139, KAFKA-14617, KIP-903."""
    stage = Stage(nodes=4, voters=1, assigned=[2, 3, 4])
    producer = stage.producer()
    stage.send(producer, 3)
    emptied = stage.followers()[0]
    late = proposal(stage, stage.isr)
    host = stage.down(emptied)
    host.lose_directory()
    stage.directory_lost(host)
    stage.wait(lambda: emptied not in stage.isr)
    before = stage.judge.image.brokers[emptied].broker_epoch
    # It registers, but does not get its log back before the late proposal comes.
    leads = stage.leader().host
    stage.network.block([(leads, emptied), (emptied, leads)])
    host.start()
    stage.wait(lambda: stage.judge.image.brokers[emptied].broker_epoch > before and stage.judge.image.eligible(emptied))
    assert emptied not in stage.isr and emptied in late.isr
    again = proposal(stage, late.isr, isr_epochs=late.isr_epochs)
    assert refused(stage, again) == IneligibleReplicaError.code
    # The same with the epoch of its new registration would be taken: the epochs are what is looked at.
    fresh = proposal(stage, late.isr)
    assert alter(stage.controller().image, fresh) is not None
    stage.calm()
    log = stage.follower(emptied).log
    assert log is not None and log.end_offset == 3


def test_the_last_replica_standing_does_not_lead_after_it_lost_its_tail() -> None:
    """KIP-966: it is in no ISR and no ELR any more; a member of the ELR leads."""
    stage = Stage(flush="os", min_isr=2, nodes=4, voters=1, assigned=[2, 3, 4])
    producer = stage.producer()
    stage.send(producer, 3)
    last = stage.leader()
    for node in stage.followers():
        stage.down(node)
    stage.wait(lambda: stage.truth.newest.isr == [last.host])  # type: ignore[union-attr]
    elr = list(stage.truth.newest.elr)  # type: ignore[union-attr]
    assert elr
    stage.append(last)
    stage.down(last.host, power=True)
    stage.run(stage.engine.time + 0.5)
    stage.hosts[last.host].start()
    stage.wait(lambda: last.host not in stage.truth.newest.isr + stage.truth.newest.elr, limit=20.0)  # type: ignore[union-attr]
    for node in elr:
        stage.hosts[node].start()
    stage.wait(lambda: stage.leader_of(stage.truth) is not None, limit=20.0)
    assert stage.leader().host in elr
    stage.calm()
    assert stage.truth.end >= 3


def test_a_replica_that_shuts_down_holds_no_ack_back() -> None:
    """KAFKA-15021."""
    stage = Stage()
    producer = stage.producer()
    stage.send(producer)
    leaving = stage.followers()[0]
    node = stage.hosts[leaving].processes["node"]
    assert isinstance(node, NodeProcess)
    node.run(node.step, DrainAsked(request=1, timeout_s=30.0))
    epoch = stage.truth.newest.leader_epoch  # type: ignore[union-attr]
    stage.wait(lambda: leaving not in stage.isr, limit=2.0)
    assert stage.truth.newest.leader_epoch == epoch, "a shrink is no election"  # type: ignore[union-attr]
    stage.down(leaving)
    began = stage.engine.time
    stage.send(producer, 5)
    assert stage.engine.time - began < 0.3
    stage.calm()


def test_a_proposal_that_was_committed_but_not_answered_does_no_harm_when_it_is_repeated() -> None:
    """KAFKA-14144: its leader learns of it from the metadata log."""
    stage = Stage()
    away = stage.followers()[0]
    stage.follower(away).freeze()
    producer = stage.producer()
    stage.give(producer)
    leader = stage.leader()
    stage.wait(lambda: away not in stage.isr)
    again = proposal(stage, stage.isr, partition_epoch=stage.truth.newest.partition_epoch - 1)  # type: ignore[union-attr]
    assert refused(stage, again) == InvalidUpdateVersionError.code
    stage.wait(lambda: leader.machine.partition_epoch == stage.truth.newest.partition_epoch)  # type: ignore[union-attr]
    isr = leader.machine._isr
    number = isr.propose(isr.committed | {away})
    isr.answered(number, InvalidUpdateVersionError.code, leader.now)
    assert away in isr.maximal, "nobody knows: it counts until the log tells"
    slice = leader.machine.slice
    newer = m.Slice(
        **{
            **{name: getattr(slice, name) for name in slice.__struct_fields__},
            "partition_epoch": slice.partition_epoch + 1,
            "applied": slice.applied + 1,
        }
    )
    isr.heard(newer, leader.now)
    assert isr.maximal == frozenset(slice.isr)


def test_a_slice_that_says_nothing_new_interrupts_nothing() -> None:
    """KAFKA-13790: the same leader epoch starts no fetcher anew and moves no epoch start."""
    stage = Stage()
    producer = stage.producer()
    stage.send(producer, 2)
    leader, follower = stage.leader(), stage.follower(stage.followers()[0])
    start, dial = leader.machine.epoch_start, follower.machine.dial
    assert not [
        one for one in leader.machine.slice_changed(leader.machine.slice, leader.now) if type(one) is ProposeIsr
    ]
    effects = follower.machine.slice_changed(follower.machine.slice, follower.now)
    assert not [one for one in effects if isinstance(one, Dial)]
    hung = stage.followers()[1]
    stage.follower(hung).freeze()
    stage.send(producer, 2)
    stage.wait(lambda: hung not in stage.isr)
    stage.wait(lambda: follower.machine.slice.partition_epoch > 0, "the same leader epoch, a newer partition epoch")
    assert (leader.machine.epoch_start, follower.machine.dial) == (start, dial)
    stage.calm()


def test_a_leader_that_is_cut_off_acknowledges_nothing_to_acks_all() -> None:
    """The classic zombie: acks=1 is taken and lost, acks=all waits in vain, and nothing of it stays."""
    stage = Stage()
    producer = stage.producer()
    stage.send(producer, 2)
    zombie = stage.leader()
    stage.isolate(zombie.host)
    assert isinstance(stage.append(zombie, acks=1), m.Appended)
    answer = stage.append(zombie, acks=-1)
    assert isinstance(answer, m.Refused)
    stage.wait(lambda: stage.truth.newest.leader != zombie.host, limit=20.0)  # type: ignore[union-attr]
    assert zombie.alive, "it does not know yet"
    answer = stage.append(zombie, acks=-1)
    assert not isinstance(answer, m.Appended)
    stage.send(producer, 2)
    stage.calm()
    assert stage.truth.end == 4, "what the zombie took is gone"
    stale = proposal(stage, [zombie.host], leader_epoch=0, node=zombie.host)
    assert refused(stage, stale) in (FencedLeaderEpochError.code, 77)


def test_a_clock_that_jumps_shrinks_nothing() -> None:
    """Lags, sessions and leases are measured by the monotonic clock."""
    stage = Stage()
    producer = stage.producer()
    stage.send(producer)
    before = stage.truth.newest
    for jump in (1_800_000, -7_200_000, 86_400_000):
        for host in stage.hosts.values():
            host.wall_shift += jump
        stage.run(stage.engine.time + 2.0)
    assert stage.truth.newest is before
    stage.calm()


def test_transactions_are_refused() -> None:
    """KIP-890, KAFKA-14402 and the Bufstream report are about transactions: none is served, so none can hang or tear.

    A transactional batch is not appended, whatever epoch it has: no marker can come too late for it.
    """
    stage = Stage()
    leader = stage.leader()
    batch = build_batch(
        [Record(0, 1_700_000_000_000, None, b"v")],
        producer_id=7,
        producer_epoch=0,
        base_sequence=0,
        transactional=True,
    )
    answer = stage.append(leader, acks=-1, batch=batch)
    assert isinstance(answer, m.Refused) and answer.code == InvalidTxnStateError.code
    assert leader.log is not None and leader.log.end_offset == 0 and len(leader.log.producers) == 0


def test_an_end_of_transaction_finds_no_handler() -> None:
    """EndTxn and AddPartitionsToTxn (delayed ones, too) reach nothing: the gateway advertises neither."""
    from logeion.wire import apis

    served = {name for name in dir(apis) if name.endswith("Request")}
    assert not served & {
        "EndTxnRequest",
        "AddPartitionsToTxnRequest",
        "AddOffsetsToTxnRequest",
        "TxnOffsetCommitRequest",
    }


def test_a_batch_that_is_there_and_comes_again_while_too_few_are_in_sync_holds_up_nothing() -> None:
    """Its producer has the ack already, so it will not send the batch once more (found by seed 2431 of its time)."""
    stage = Stage()
    leader = stage.leader()
    first, second, third = (stage.batch(7, sequence, 1) for sequence in range(3))
    assert isinstance(stage.append(leader, acks=-1, batch=first), m.Appended)
    for node in stage.followers():
        stage.follower(node).freeze()
    stage.append(leader)
    stage.wait(lambda: leader.machine.isr == {leader.host})
    late = stage.append(leader, acks=-1, batch=first)
    assert isinstance(late, m.Refused) and late.code == NotEnoughReplicasError.code
    for node in stage.followers():
        stage.follower(node).thaw()
    stage.wait(lambda: len(leader.machine.isr) == 3)
    assert isinstance(stage.append(leader, acks=-1, batch=second), m.Appended)
    # One that was new when it was refused still comes first.
    for node in stage.followers():
        stage.follower(node).freeze()
    stage.append(leader)
    stage.wait(lambda: leader.machine.isr == {leader.host})
    assert isinstance(stage.append(leader, acks=-1, batch=third), m.Refused)
    for node in stage.followers():
        stage.follower(node).thaw()
    stage.wait(lambda: len(leader.machine.isr) == 3)
    behind = stage.append(leader, acks=-1, batch=stage.batch(7, 3, 1))
    assert isinstance(behind, m.Refused) and behind.code == NotEnoughReplicasError.code
    assert isinstance(stage.append(leader, acks=-1, batch=third), m.Appended)
    stage.calm()
