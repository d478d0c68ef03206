"""Bugs that other replicated logs have had, as scenarios (kafka.md, 6.6): logs that part and meet again."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from logeion.actors import messages as m
from logeion.actors.gateway.fetch import _Reading
from logeion.actors.gateway.state import Gateway
from logeion.actors.partition.effects import Tell
from logeion.actors.replica.machine import Effect, Hangup
from logeion.wire.apis import FetchPartition, FetchRequest, PartitionData
from logeion.wire.errors import NotLeaderOrFollowerError, OffsetOutOfRangeError, UnknownServerError
from tests.sim.engine import Violated
from tests.sim.network import Port
from tests.sim.stage import Stage


def test_a_follower_that_restarts_before_it_heard_of_the_watermark_keeps_what_it_has() -> None:
    """KIP-101, first case (KAFKA-1211)."""
    stage = Stage(replicas=2, min_isr=1)
    producer = stage.producer()
    [node] = stage.followers()
    stage.send(producer, 2)
    follower = stage.follower(node)
    assert follower.log is not None and follower.log.end_offset == 2
    assert follower.log.high_watermark < 2, "the follower was to die before it heard of the watermark"
    old = stage.leader()
    follower.kill()
    assert stage.follower(node).log.end_offset == 2  # type: ignore[union-attr]
    stage.down(old.host)
    stage.wait(lambda: stage.leads(node))
    assert stage.leader().log.end_offset == 2  # type: ignore[union-attr]
    stage.wait(lambda: stage.leader().log.high_watermark == 2)  # type: ignore[union-attr]
    stage.calm()


def test_logs_that_differ_at_the_same_offset_after_hard_failures_are_told_apart_by_epoch() -> None:
    """KIP-101, second case: the one that returns first takes writes where the other has its tail."""
    stage = Stage(replicas=2, min_isr=2)
    producer = stage.producer()
    stage.send(producer, 3)
    old = stage.leader()
    [other] = stage.followers()
    stage.isolate(old.host)
    assert isinstance(stage.append(old), m.Appended)
    assert old.log is not None and old.log.end_offset == 4
    tail = stage.judge.replica(old.host, stage.truth).here.at(3)
    stage.down(old.host, power=True)
    stage.down(other, power=True)
    stage.network.heal()
    stage.hosts[other].start()
    stage.wait(lambda: stage.leads(other))
    assert isinstance(stage.append(stage.leader()), m.Appended)
    stage.hosts[old.host].start()
    stage.send(producer, 2)
    stage.calm()
    ours = stage.judge.replica(old.host, stage.truth).here.at(3)
    assert tail is not None and ours is not None
    assert ours.epoch > tail.epoch and ours.body != tail.body
    assert stage.said(f"{old.host}:replica/t-0 truncates from 4 to 3") == 1


def test_failovers_in_a_row_are_truncated_in_as_many_rounds_as_it_takes() -> None:
    """KIP-279 (KAFKA-6361): both replicas led by turns, each in epochs that the other never saw.

    Two replicas that are never up together take what is acknowledged by themselves alone: 2 has the epochs a, c and e,
    3 has a, b and d. When 3 follows 2, d is answered with c, and b with a.
    """
    stage = Stage(min_isr=2, voters=1, assigned=[2, 3])
    producer = stage.producer()
    assert stage.leader().host == 2
    stage.send(producer, 2)
    epochs: dict[int, list[int]] = {2: [stage.leader().machine.epoch], 3: []}
    for down, leads, batches in ((2, 3, 2), (3, 2, 3), (2, 3, 2), (3, 2, 1)):
        stage.down(down)
        stage.hosts[leads].start()
        stage.wait(lambda leads=leads: stage.leads(leads), limit=20.0)  # type: ignore[misc]
        for _ in range(batches):
            assert isinstance(stage.append(stage.leader()), m.Appended)
        epochs[leads].append(stage.leader().machine.epoch)
    assert stage.truth.end == 2, "nothing more is committed: the other one was away each time"
    assert epochs[2][0] < epochs[3][0] < epochs[2][1] < epochs[3][1] < epochs[2][2]
    ends = {node: stage.judge.replica(node, stage.truth).here for node in (2, 3)}
    for view in ends.values():
        view.refresh()
    assert (ends[2].end, ends[3].end) == (6, 6)
    stage.hosts[3].start()
    stage.calm()
    assert stage.said("3:replica/t-0 truncates from 6 to 4") == 1, "the end of its epoch b"
    assert stage.said("3:replica/t-0 truncates from 4 to 2") == 1, "the end of epoch a"
    assert stage.said("3:replica/t-0 truncates") == 2
    assert stage.truth.end == 6


def test_epochs_without_a_record_are_reconciled_too() -> None:
    """KAFKA-7415, KAFKA-10706: elections back to back, nothing written between."""
    stage = Stage()
    producer = stage.producer()
    stage.send(producer)
    for _ in range(3):
        leader = stage.leader()
        epoch = leader.machine.epoch
        leader.kill()
        stage.wait(lambda epoch=epoch: stage.truth.newest.leader_epoch > epoch)  # type: ignore[misc, union-attr]
    moved = stage.leader().host
    stage.down(moved)
    stage.wait(lambda: stage.leader_of(stage.truth) is not None and not stage.leads(moved), limit=20.0)
    stage.hosts[moved].start()
    stage.send(producer)
    stage.calm()
    leader = stage.leader()
    assert leader.log is not None
    newest = leader.log.epochs.entries[-1]
    for node in stage.followers():
        log = stage.follower(node).log
        assert log is not None and log.epochs.entries[-1] == newest
        for epoch, start in log.epochs.entries:
            if start < log.end_offset:
                assert leader.log.epochs.epoch_at(start) == epoch


def test_a_fetch_reply_of_a_leader_that_was_left_is_ignored() -> None:
    """KAFKA-7786, KAFKA-13207: the old leader's answer comes when another one is followed, by a lane still read."""
    stage = Stage(late_s=2.0)
    producer = stage.producer()
    stage.send(producer)
    node = stage.followers()[0]
    follower, old = stage.follower(node), stage.leader()
    machine = follower.machine
    old_epoch, heard = machine.slice.leader_epoch, []
    honest = machine.answered

    def answered(dial: int, answer: m.LogFetched, size: int, now: float) -> list[Effect]:
        effects = honest(dial, answer, size, now)
        heard.append((answer.epoch, size, machine.slice.leader_epoch, machine._fetching, effects))
        return effects

    machine.answered = answered  # type: ignore[method-assign]
    lane = old.machine.followers[node].lane
    assert isinstance(lane, Port)
    lane.delay(1.0)
    assert isinstance(stage.append(old), m.Appended)
    assert old.log is not None and old.log.end_offset == 2
    old.kill()
    stage.wait(lambda: stage.leader().machine.epoch > old_epoch)
    stage.send(producer, 2)
    stage.run(stage.engine.time + 1.0)
    [(size, now, fetching, effects)] = [what for epoch, *what in heard if epoch == old_epoch]
    assert size and now > old_epoch and fetching, "it came, and an answer was awaited"
    assert effects == []
    stage.calm()


def test_an_answer_of_another_epoch_counts_for_nothing_whoever_gives_it() -> None:
    """KAFKA-7786: on the lane that is followed, but of an epoch that is not."""
    stage = Stage()
    stage.send(stage.producer(), 2)
    stage.settle()
    stage.leader().kill()
    stage.wait(lambda: stage.leader().machine.epoch > 0)
    stage.settle()
    follower = stage.follower(stage.followers()[0])
    machine = follower.machine
    epoch, end, watermark = machine.slice.leader_epoch, machine.end, machine.high_watermark
    for other in (epoch - 1, epoch + 1):
        for answer in (
            m.LogFetched(epoch=other, log_start=0, high_watermark=9, end=9),
            m.LogFetched(epoch=other, log_start=0, high_watermark=9, end=9, diverging_epoch=0, diverging_end=1),
            m.LogFetched(epoch=other, log_start=5, high_watermark=9, end=9, code=OffsetOutOfRangeError.code),
        ):
            stage.wait(lambda: machine._fetching)
            told = m.Watermark(epoch=other, high_watermark=9, log_start=1)
            assert machine.watermark(machine.dial, told, follower.now) == []
            effects = machine.answered(machine.dial, answer, 0, follower.now)
            assert [type(effect) for effect in effects] == [Hangup], "it dials anew, and does nothing else"
            follower._do(effects)
            follower.stepped()
    assert (machine.end, machine.high_watermark, machine.log_start) == (end, watermark, 0)
    stage.calm()


def test_an_old_leaders_tail_is_cut_before_its_watermark_rises() -> None:
    """KAFKA-14704: the reply that says where the logs part carries a higher watermark."""
    stage = Stage()
    producer = stage.producer()
    stage.send(producer, 3)
    old = stage.leader()
    stage.isolate(old.host, clients=True)
    for _ in range(3):
        assert isinstance(stage.append(old), m.Appended)
    stage.wait(lambda: stage.truth.newest.leader != old.host, limit=20.0)  # type: ignore[union-attr]
    stage.send(producer, 5)
    assert stage.truth.end > 6, "the new leader's watermark is to lie above the old one's tail"
    stage.network.heal()
    stage.calm()  # the judge compares each watermark with the log below it, at the moment it rises
    assert stage.said(f"{old.host}:replica/t-0 truncates from 6 to 3") == 1


def test_a_fetch_that_diverges_is_no_progress() -> None:
    """KAFKA-13141."""
    stage = Stage()
    producer = stage.producer()
    stage.leader().kill()
    stage.wait(lambda: stage.truth.newest.leader_epoch > 0)  # type: ignore[union-attr]
    stage.send(producer, 3)
    leader, node = stage.leader(), stage.followers()[0]
    machine, known = leader.machine, leader.machine.followers[node]
    before = (known.end, machine.high_watermark, machine.isr)
    fetch = m.FetchLog(
        epoch=machine.epoch,
        node=node,
        broker_epoch=known.broker_epoch,
        incarnation=known.incarnation,
        directory_id=known.directory_id,
        offset=9,
        last_epoch=0,
        durable_end=9,
        log_start=0,
        high_watermark=0,
        max_bytes=1000,
        wait_ms=500,
    )
    [told] = [one for one in machine.fetched(known.lane, fetch, leader.now) if isinstance(one, Tell)]
    assert isinstance(told.message, m.LogFetched)
    assert (told.message.diverging_epoch, told.message.diverging_end) == (0, 0)
    assert (known.end, machine.high_watermark, machine.isr) == before
    persisted = m.Persisted(epoch=machine.epoch, incarnation=known.incarnation, durable_end=9)
    machine.persisted(known.lane, persisted, leader.now)
    assert known.end <= 3 and machine.high_watermark == before[1]


def test_a_fetch_before_the_log_start_is_out_of_range_even_if_it_diverges() -> None:
    """KAFKA-12996."""
    stage = Stage()
    producer = stage.producer()
    stage.leader().kill()
    stage.wait(lambda: stage.truth.newest.leader_epoch > 0)  # type: ignore[union-attr]
    stage.send(producer, 4)
    leader, node = stage.leader(), stage.followers()[0]
    assert isinstance(stage.ask(leader, m.TrimLog(epoch=leader.machine.epoch, offset=3)), m.LogTrimmed)
    known = leader.machine.followers[node]
    fetch = m.FetchLog(
        epoch=leader.machine.epoch,
        node=node,
        broker_epoch=known.broker_epoch,
        incarnation=known.incarnation,
        directory_id=known.directory_id,
        offset=1,
        last_epoch=0,
        durable_end=1,
        log_start=0,
        high_watermark=0,
        max_bytes=1000,
        wait_ms=500,
    )
    known.acknowledged = -1
    [told] = [one for one in leader.machine.fetched(known.lane, fetch, leader.now) if isinstance(one, Tell)]
    assert isinstance(told.message, m.LogFetched) and told.message.code == OffsetOutOfRangeError.code
    assert told.message.diverging_epoch == -1


def test_a_follower_that_begins_anew_far_ahead_can_lead_at_once() -> None:
    """KAFKA-9491."""
    stage = Stage(min_isr=1, segment_bytes=1024)
    producer = stage.producer()
    stage.send(producer, 5)
    behind = stage.followers()[0]
    stage.down(behind)
    stage.wait(lambda: behind not in stage.isr)
    stage.send(producer, 40)
    leader = stage.leader()
    assert isinstance(stage.ask(leader, m.TrimLog(epoch=leader.machine.epoch, offset=-1)), m.LogTrimmed)
    stage.hosts[behind].start()
    stage.wait(lambda: behind in stage.isr, limit=20.0)
    assert stage.said(f"{behind}:replica/t-0 begins anew at 45") == 1
    for node in [node for node in stage.hosts if node != behind]:
        stage.down(node)
        if node in stage.isr and stage.judge.image.eligible(node):
            stage.wait(lambda node=node: not stage.hosts[node].up)  # type: ignore[misc]
    for node in stage.voters:
        if node != behind and node != leader.host:
            stage.hosts[node].start()
    stage.wait(lambda: stage.leader_of(stage.truth) is not None, limit=30.0)
    stage.calm()
    for node in stage.hosts:
        assert stage.judge.replica(node, stage.truth).log_start == 45


def test_a_roll_exactly_at_the_watermark_exposes_nothing() -> None:
    """KAFKA-9196."""
    stage = Stage(segment_bytes=1024)
    producer = stage.producer()
    leader = stage.leader()
    log = leader.log
    assert log is not None
    while len(log.segments) == 1:
        stage.send(producer)
    stage.settle()
    for node in stage.followers():
        stage.follower(node).freeze()
    watermark = log.high_watermark
    while log.active.size:
        stage.append(leader)
        log.roll()
    rolled = log.active.base
    stage.append(leader)
    assert log.high_watermark == watermark < rolled < log.end_offset
    segment, position = log.watermark_position()
    advanced = stage.ask(leader, m.Watch(epoch=leader.machine.epoch, offset=-1))
    assert isinstance(advanced, m.Advanced)
    assert (advanced.high_watermark, advanced.segment, advanced.position) == (watermark, segment, position)
    readable = log.segments[segment]
    assert [header.next_offset for _, header in readable.walk(position)][:1] in ([], [watermark + 1])
    stage.calm()


def test_a_topic_that_was_made_again_while_a_broker_was_down_takes_nothing_from_the_old_one() -> None:
    """KAFKA-14616, KAFKA-12257."""
    stage = Stage()
    producer = stage.producer()
    stage.send(producer, 5)
    old, away = stage.truth, stage.followers()[0]
    stage.down(away)
    controller = next(host for host in stage.hosts.values() if host.up).processes["controller"]
    assert isinstance(stage.ask(controller, m.DeleteTopics(names=["t"])), m.TopicsChanged)
    stage.clients.clear()
    stage.wait(lambda: old.key not in stage.judge.truths)
    stage.create_topic("t")
    stage.wait(stage.all_led)
    fresh = stage.producer()
    stage.hosts[away].start()
    stage.send(fresh, 2)
    consumer = stage.add_consumer(stage.key)
    stage.calm()
    assert consumer.position == 2 and stage.truth.key != old.key
    for host in stage.hosts.values():
        assert stage.topic_id_in(host, "/data/t-0") == stage.key[0]


def test_after_a_failed_write_nothing_more_is_appended_there() -> None:
    """KAFKA-10778: a second append is on its way when the first one fails."""
    stage = Stage()
    producer = stage.producer()
    stage.send(producer, 3)
    old = stage.leader()
    assert old.log is not None
    end = old.log.end_offset
    old.on.disk.broken.add(("write", "/t-0/"))  # type: ignore[union-attr]
    stage.give(producer, 4)
    stage.wait(lambda: not old.alive)
    assert stage.judge.replica(old.host, stage.truth).here.end == end
    stage.wait(lambda: not producer.waiting, limit=20.0)
    assert not stage.leads(old.host), "another replica took over"
    assert stage.said(f"{old.host}:partition/t-0 ends:") == 1
    states = [line for line in stage.engine.trace if f"{old.host}:partition/t-0 leads" in line]
    assert len(states) == 1, "it does not lead again on that log"
    stage.calm()


def test_a_leader_that_died_of_a_failed_sync_does_not_vouch_for_what_that_left_in_the_cache() -> None:
    """Found by the simulator: the next process in this directory syncs pages that count as clean."""
    stage = Stage(replicas=2, min_isr=2)
    producer = stage.producer()
    stage.send(producer, 3)
    stage.settle()
    old = stage.leader()
    disk = stage.hosts[old.host].disk
    disk.broken.add(("sync", "/t-0/"))
    # The write and the sync still; the marker that is to say what happened comes to nothing.
    old.files.kill_in = 2
    stage.give(producer, 1)
    stage.wait(lambda: not old.alive)
    names = disk.names["/data/t-0"]
    assert "storage-failed" not in names
    assert any(len(inode.data) > len(inode.synced) and not inode.pending for inode in names.values())
    disk.broken.clear()
    stage.wait(lambda: not producer.waiting, limit=20.0)
    stage.calm()
    for node in stage.hosts:
        stage.down(node, power=True)
    for host in stage.hosts.values():
        host.start()
    stage.calm()
    assert stage.truth.end == 4


def test_a_watermark_that_could_not_be_written_may_fall_once_and_no_other() -> None:
    """Found by the simulator: a disk that refuses writes, then the whole tree is killed."""
    stage = Stage(replicas=3)
    producer = stage.producer()
    stage.send(producer, 1)
    stage.settle()
    old = stage.leader()
    disk = stage.hosts[old.host].disk
    disk.broken.add(("write", "/t-0/partition-state"))
    stage.send(producer, 2)
    stage.down(old.host)
    assert list(disk.unwritten) == ["/data/t-0"]
    disk.broken.clear()
    stage.hosts[old.host].start()
    stage.calm()
    assert disk.unwritten == {}
    with pytest.raises(Violated, match="the watermark of t-0"):
        stage.judge.watermark(old.host, stage.truth, 2, leading=False)


def test_producers_are_known_again_after_a_truncation() -> None:
    """KAFKA-12153, KAFKA-9105, KAFKA-12520: the state of what was cut off is forgotten, the rest is kept."""
    stage = Stage()
    producer = stage.producer()
    stage.send(producer, 3)
    old = stage.leader()
    stage.isolate(old.host)
    stage.give(producer, 3)
    stage.wait(lambda: old.log.end_offset == 6)  # type: ignore[union-attr]
    tail = [old.log.producers.get(producer.producer_id).batches[-1].last_sequence]  # type: ignore[union-attr]
    stage.wait(lambda: not producer.waiting, limit=20.0)
    stage.network.heal()
    stage.wait(lambda: old.host in stage.isr, limit=20.0)
    cut = stage.follower(old.host)
    assert tail == [5] and stage.said(f"{old.host}:replica/t-0 truncates from 6 to 3") == 1
    stage.settle()
    state = cut.log.producers.get(producer.producer_id)  # type: ignore[union-attr]
    assert state is not None
    assert [batch.first_offset for batch in state.batches][-3:] == [3, 4, 5]
    for node in [node for node in stage.hosts if node != old.host]:
        stage.down(node)
    for node in [node for node in stage.voters if node != old.host][:1]:
        stage.hosts[node].start()
    stage.calm()
    stage.send(producer, 2)
    stage.calm()


def test_only_the_leader_is_read_from() -> None:
    """KAFKA-14372, KAFKA-15390 are about a preferred replica that lags or is fenced (KIP-392).

    Here no other than the leader is ever named: each host's gateway, asked by a consumer of its own rack, refuses with
    the leader's name, be the follower beside it in sync, hung, or fenced.
    """
    stage = Stage()
    stage.send(stage.producer())
    stage.settle()
    leader, [hung, gone] = stage.leader(), stage.followers()
    images = {node: stage.hosts[node].processes["node"].machine.image for node in stage.hosts}  # type: ignore[attr-defined]

    def fetched(node: int) -> PartitionData:
        gateway: Any = SimpleNamespace(node=node, image=images[node], controller_id=1)
        gateway.config = SimpleNamespace(node=SimpleNamespace(rack="here"))
        gateway.advertised = lambda local: ("host", 9092)
        gateway.leader_code = partial(Gateway.leader_code, gateway)
        gateway.link = lambda topic, partition: served.append(node) or (_ for _ in ()).throw(UnknownServerError("led"))
        asked = FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1_000)
        topic = images[node].topic_by_id(stage.key[0])
        call: Any = SimpleNamespace(
            gateway=gateway,
            request=FetchRequest(max_bytes=1_000, rack_id="here"),
            _topics=[("t", None, topic, [asked])],
            exchange=SimpleNamespace(
                header=SimpleNamespace(api_version=16), connection=SimpleNamespace(local=("host", 9092))
            ),
        )
        [topics] = _Reading(call).response.responses
        return topics.partitions[0]

    served: list[int] = []
    for what in ("in sync", "lagging", "fenced"):
        if what == "lagging":
            stage.follower(hung).freeze()
            stage.give(stage.producer(), 1)
            stage.wait(lambda: hung not in stage.isr)
        elif what == "fenced":
            stage.down(gone)
            stage.wait(lambda: gone in stage.judge.image.fenced)
        for node in stage.followers():
            answer = fetched(node)
            assert answer.error_code == NotLeaderOrFollowerError.code, what
            assert answer.preferred_read_replica == -1 and not answer.records
            assert answer.current_leader.leader_id == leader.host
        assert fetched(leader.host).preferred_read_replica == -1
    assert set(served) == {leader.host}
    stage.hosts[gone].start()
    stage.calm()


def test_a_consumer_that_waits_is_woken_by_replication() -> None:
    """KAFKA-14334: not by a timeout, and not before the in-sync replicas have the record."""
    stage = Stage()
    producer = stage.producer()
    stage.send(producer)
    leader = stage.leader()
    for node in stage.followers():
        stage.follower(node).freeze()
    woken: list[tuple[float, m.Message | None]] = []
    watch = m.Watch(epoch=leader.machine.epoch, offset=stage.truth.end)
    stage.lane(leader).call(watch, lambda reply: woken.append((stage.engine.time, reply)), 30.0)
    stage.give(producer)
    stage.run(stage.engine.time + 0.3)
    assert not woken, "what the followers lack is not shown"
    moment = stage.engine.time
    for node in stage.followers():
        stage.follower(node).thaw()
    stage.wait(lambda: woken)
    assert isinstance(woken[0][1], m.Advanced) and woken[0][0] - moment < 0.2
    stage.calm()
