"""Nodes: registration and broker epochs, heartbeats, fencing, what restarts and crashes cost, controlled shutdown."""

from __future__ import annotations

import time

import pytest

from logeion.actors import messages as m
from logeion.actors.controller.machine import ControllerMachine, Settings
from logeion.actors.controller.topics import Defaults
from logeion.actors.metadata import (
    BrokerChanged,
    BrokerRegistered,
    ClusterCreated,
    MetadataImage,
    MetadataRecord,
    PartitionChanged,
)
from logeion.actors.metadata import TopicCreated as Created
from tests.actors.controller_world import World, refused, statuses

# Registration


def test_a_node_begins_fenced_until_it_has_seen_its_own_registration() -> None:
    world = World(0)
    world.register(1)
    epoch = world.epochs[1]
    assert not world.image.eligible(1)
    assert world.beat(1, applied=epoch).fenced
    assert not world.beat(1, applied=epoch + 1).fenced
    assert world.image.eligible(1)


def test_a_heartbeat_that_changes_nothing_leaves_no_record() -> None:
    world = World(1)
    before = len(world.log)
    world.beat(1)
    assert len(world.log) == before


@pytest.mark.parametrize("broker_epoch", [0, 99])
def test_another_registration_s_words_are_stale(broker_epoch: int) -> None:
    world = World(1)
    topic_id = world.topic("t", [1])
    assert refused(world.ask(m.Heartbeat(node=1, broker_epoch=broker_epoch, applied=99))) == 77
    assert refused(world.ask(m.Heartbeat(node=7, broker_epoch=broker_epoch, applied=99))) == 77
    assert refused(world.ask(m.ReplicasDown(node=1, broker_epoch=broker_epoch, replicas=[]))) == 77
    assert refused(world.ask(world.proposal([1], broker_epoch=broker_epoch))) == 77
    asked = [m.GrantRequest(topic_id=topic_id, partition=0, seen_epoch=5)]
    assert refused(world.ask(m.GrantEpochs(node=1, broker_epoch=broker_epoch, partitions=asked))) == 77


def test_a_restarted_node_process_keeps_its_epoch_its_leaders_and_its_isr() -> None:
    world = World()
    world.topic()
    epoch, state = world.epochs[1], world.state()
    world.register(1, incarnation=world.image.brokers[1].incarnation)
    assert world.epochs[1] == epoch and world.image.eligible(1) and world.state() is state


def test_a_new_incarnation_is_taken_out_of_everything_before_it_is_registered() -> None:
    world = World()
    world.topic("t", [1, 2, 3], [2, 1, 3])
    before, at = world.epochs[1], len(world.log)
    world.register(1)
    assert [type(one) for one in world.log[at:]] == [PartitionChanged, PartitionChanged, BrokerRegistered]
    assert world.epochs[1] == len(world.log) - 1 > before
    assert world.shown() == (2, [2, 3], []) and world.shown(1) == (2, [2, 3], [])
    assert world.image.fenced == {1}


def test_two_nodes_cannot_have_one_id() -> None:
    world = World(1)
    assert refused(world.register(1, directory="other")) == 101
    world.elapse(0.9)
    assert refused(world.register(1, directory="other")) == 101
    world.elapse(0.2)
    assert isinstance(world.register(1, directory="other"), m.NodeRegistered)


def test_the_incarnation_that_was_replaced_is_not_heard_any_more() -> None:
    world = World(1)
    old = world.epochs[1]
    world.register(1)
    assert refused(world.ask(m.Heartbeat(node=1, broker_epoch=old, applied=99))) == 77


# What a crash costs


@pytest.mark.parametrize(
    ("flush", "how", "eligible"),
    [
        ("ack", {}, True),
        ("os", {}, True),
        ("ack", {"boot": "another"}, True),
        ("os", {"boot": "another"}, False),
        ("interval", {"boot": "another"}, False),
        ("os", {"boot": "another", "clean": True}, True),
        ("ack", {"directory": "new"}, False),
        ("ack", {"directory": "new", "clean": True}, False),
    ],
)
@pytest.mark.parametrize("lapsed_first", [False, True])
def test_only_who_still_has_all_it_had_stays_eligible(
    flush: str, how: dict[str, str], eligible: bool, lapsed_first: bool
) -> None:
    """Kafka asks for a clean shutdown; with every acknowledged byte synced, a host may crash as well (design 6.4)."""
    world = World()
    world.topic("t", [1, 2], min_insync_replicas=2, logeion_flush=flush)
    if lapsed_first:
        world.kill(1)
        assert world.shown() == (2, [2], [1])
    elif "directory" in how:
        world.elapse(1.0, beating=[2, 3])
    world.register(1, **how)  # type: ignore[arg-type]
    assert world.shown() == (2, [2], [1] if eligible else [])
    world.beat(1)
    assert world.shown() == (2, [2], [1] if eligible else [])


def test_a_boot_that_is_not_known_is_not_held_against_a_node() -> None:
    world = World(1)
    world.topic("t", [1], logeion_flush="os")
    world.register(1, boot="")
    world.register(1, boot="first known")
    world.beat(1)
    assert world.state().leader == 1 and not world.state().recovering


def test_a_cluster_killed_as_a_whole_elects_whoever_is_left() -> None:
    world = World()
    world.topic("t", [1, 2, 3], min_insync_replicas=2)
    for node in (2, 1, 3):
        world.register(node)
    assert world.shown() == (-1, [], [1, 3])
    world.beat(2)
    assert world.state().leader == -1
    world.beat(3)
    assert world.shown() == (3, [3], [1])
    world.beat(1)
    assert world.state().leader == 3


# Fencing


def test_a_silent_node_is_fenced_after_its_session_in_one_go() -> None:
    world = World()
    world.topic("t", [1, 2, 3], [1, 2, 3], [2, 3, 1])
    world.elapse(0.95, beating=[2, 3])
    assert world.image.eligible(1)
    before = len(world.log)
    world.elapse(0.2, beating=[2, 3])
    assert [type(one) for one in world.log[before:]] == [PartitionChanged] * 3 + [BrokerChanged]
    assert world.image.fenced == {1}
    assert [world.state(number).leader for number in range(3)] == [2, 2, 2]


def test_a_fenced_node_is_back_with_its_next_heartbeat() -> None:
    world = World()
    world.topic("t", [1])
    world.kill(1)
    assert world.state().leader == -1
    assert not world.beat(1).fenced
    assert world.state().leader == 1


def test_many_nodes_silent_together_get_one_session_more() -> None:
    world = World(4)
    world.topic("t", [1, 2, 3])
    world.beat(3)
    world.elapse(0.05)
    world.beat(4)
    start = world.now
    world.elapse(1.6, beating=[1, 2])
    assert world.image.fenced == set()
    world.elapse(0.5, beating=[1, 2])
    assert world.image.fenced == {3, 4}
    assert world.now - start < 2.2


def test_one_node_of_two_is_not_many() -> None:
    world = World(2)
    world.elapse(1.1, beating=[2])
    assert world.image.fenced == {1}


def test_few_of_many_nodes_are_not_many() -> None:
    world = World(10)
    world.elapse(1.1, beating=range(4, 11))
    assert world.image.fenced == {1, 2, 3}, "30 % are not more than 30 %"
    world = World(10)
    world.elapse(1.1, beating=range(5, 11))
    assert world.image.fenced == set()


def test_nobody_answers_for_time_in_which_the_controller_itself_slept() -> None:
    world = World(2)
    world.elapse(0.3, beating=[1, 2])
    world.now += 60
    world.tick()
    assert world.image.fenced == set()
    world.elapse(0.5, beating=[2])
    assert world.image.fenced == set()
    world.elapse(0.7, beating=[2])
    assert world.image.fenced == {1}


def test_a_new_leading_controller_gives_everybody_a_whole_session() -> None:
    world = World(3)
    successor = ControllerMachine(Defaults(), lambda: "f" * 32, world.follower, Settings(rebalance_s=0))
    successor.lead(0.0)
    fenced = [(quarter, statuses(successor.tick(quarter / 4))) for quarter in range(1, 9)]
    assert [quarter for quarter, changed in fenced if changed] == [8], "all three at once are many"
    assert [node for node, _, _ in fenced[-1][1]] == [1, 2, 3]


def test_the_next_look_is_never_far_and_never_in_the_past() -> None:
    machine = ControllerMachine(Defaults(), lambda: "f" * 32, MetadataImage(), Settings(session_s=4, rebalance_s=0.5))
    assert machine.deadline(7.0) == 8.0
    machine.lead(7.0)
    assert machine.deadline(7.0) == 7.5
    machine.tick(7.5)
    assert machine.deadline(7.5) == 8.0


def test_fencing_a_node_of_two_thousand_partitions_takes_no_time_to_speak_of() -> None:
    world = World()
    for number in range(20):
        partitions = [
            PartitionChanged(
                topic_id=f"{number:032x}",
                partition=partition,
                replicas=[1, 2, 3],
                isr=[1, 2, 3],
                leader=1 + partition % 3,
                leader_epoch=0,
                partition_epoch=0,
            )
            for partition in range(100)
        ]
        world.image.apply_all([Created(topic_id=f"{number:032x}", name=f"t{number}"), *partitions])
    for node in (2, 3):
        world.machine.handle(m.Heartbeat(node=node, broker_epoch=world.epochs[node], applied=0), world.now + 1.0)
    idle = time.perf_counter()
    assert world.machine.tick(world.now + 0.3) == []
    idle = time.perf_counter() - idle
    took = time.perf_counter()
    world.machine.tick(world.now + 0.6)
    records = world.machine.tick(world.now + 1.0)
    took = time.perf_counter() - took
    assert len(records) == 2001
    assert took < 0.2, "20 ms where nothing else runs"
    assert idle < 0.005


# Controlled shutdown


def test_a_node_that_stops_hands_over_and_may_stop() -> None:
    world = World()
    world.topic("t", [1, 2, 3], [2, 1, 3])
    before = len(world.log)
    answer = world.beat(1, stopping=True)
    assert answer.may_stop and not answer.fenced
    assert statuses(world.log[before:]) == [(1, False, True)]
    assert world.shown() == (2, [2, 3], []) and world.shown(1) == (2, [2, 3], [])
    assert world.beat(1, stopping=True).may_stop and len(world.log) == before + 3


def test_the_last_in_sync_leads_on_while_it_stops() -> None:
    world = World()
    world.topic("t", [1, 2, 3], min_insync_replicas=2)
    world.propose([1])
    assert world.beat(1, stopping=True).may_stop
    assert world.shown() == (1, [1], [2, 3])
    # Whoever catches up meanwhile takes over at once.
    reply = world.propose([1, 3])
    assert reply.leader == 3 and world.shown() == (3, [3], [1, 2])


def test_two_that_stop_one_after_the_other_leave_the_last_one_leading() -> None:
    world = World(2)
    world.topic("t", [1, 2])
    assert world.beat(1, stopping=True).may_stop and world.beat(2, stopping=True).may_stop
    assert world.shown() == (2, [2], [])
    world.kill(1, 2)
    assert world.shown() == (-1, [], [2])


def test_a_shutdown_that_is_called_off_is_over() -> None:
    world = World(2)
    world.topic("t", [1, 2])
    world.beat(1, stopping=True)
    assert not world.beat(1).may_stop
    assert world.image.eligible(1)


def test_a_registration_ends_the_shutdown_of_its_predecessor() -> None:
    world = World(2)
    world.beat(1, stopping=True)
    world.up(1)
    assert world.image.eligible(1)


def test_a_fenced_node_may_stop_at_once() -> None:
    world = World()
    world.kill(1)
    answer = world.beat(1, stopping=True)
    assert answer.fenced and answer.may_stop


def test_who_shuts_down_gets_no_new_partitions() -> None:
    world = World()
    world.beat(1, stopping=True)
    reply = world.ask(m.CreateTopics(topics=[m.TopicToCreate(name="new", partitions=4, replication_factor=2)]))
    assert isinstance(reply, m.TopicsChanged) and reply.results[0].code == 0
    assert all(sorted(world.state(number, "new").replicas) == [2, 3] for number in range(4))


# Replicas that are down on a node that lives


def test_a_replica_that_will_not_start_soon_is_replaced() -> None:
    world = World()
    world.topic("t", [1, 2, 3], min_insync_replicas=3)
    assert isinstance(world.down(1), m.Recorded)
    assert world.shown() == (2, [2, 3], [1])


def test_a_replica_nobody_can_replace_stays_the_leader() -> None:
    world = World()
    world.topic("t", [1, 2, 3])
    world.propose([1])
    before = len(world.log)
    world.down(1)
    assert len(world.log) == before and world.shown() == (1, [1], [])


def test_a_report_of_an_earlier_epoch_is_late() -> None:
    world = World()
    topic_id = world.topic()
    asked = [m.GrantRequest(topic_id=topic_id, partition=0, seen_epoch=0)]
    world.ask(m.GrantEpochs(node=1, broker_epoch=world.epochs[1], partitions=asked))
    world.down(1, leader_epoch=0)
    assert world.shown() == (1, [1, 2, 3], [])


def test_a_lost_log_leaves_isr_and_elr() -> None:
    world = World()
    world.topic("t", [1, 2, 3], min_insync_replicas=3)
    world.down(1, lost=True, leader_epoch=-1)
    assert world.shown() == (2, [2, 3], [])
    world.propose([2])
    assert world.shown() == (2, [2], [3])
    world.down(3, lost=True)
    assert world.shown() == (2, [2], [])


def test_the_last_log_lost_is_tried_again_when_its_node_starts_anew() -> None:
    world = World()
    world.topic("t", [1, 2, 3])
    world.propose([1])
    world.down(1, lost=True)
    assert world.shown() == (-1, [], [])
    world.up(1)
    assert world.shown() == (1, [1], []) and world.state().recovering


def test_reports_of_what_is_not_there_change_nothing() -> None:
    world = World()
    topic_id = world.topic("t", [1, 2])
    replicas = [
        m.DownReplica(topic_id="e" * 32, partition=0, leader_epoch=0, lost=True),
        m.DownReplica(topic_id=topic_id, partition=5, leader_epoch=0, lost=True),
        m.DownReplica(topic_id=topic_id, partition=0, leader_epoch=0, lost=True),
    ]
    before = len(world.log)
    world.ask(m.ReplicasDown(node=3, broker_epoch=world.epochs[3], replicas=replicas))
    assert len(world.log) == before


# Back to preferred leaders


def test_leaders_move_back_to_preferred_replicas_every_now_and_then() -> None:
    world = World(settings=Settings(rebalance_s=10))
    world.topic("t", *[[1, 2, 3]] * 30)
    world.kill(1)
    world.up(1)
    for number in range(29):
        world.propose([1, 2, 3], number)
    before = len(world.log)
    world.elapse(10, beating=[1, 2, 3])
    assert len(world.log) == before + 29
    assert [world.state(number).leader for number in range(30)] == [1] * 29 + [2]
    assert all(world.state(number).isr == [1, 2, 3] for number in range(29))
    assert world.now < 1015


def test_no_leader_moves_back_where_that_is_not_wanted() -> None:
    world = World(settings=Settings(rebalance_s=0))
    world.topic()
    world.kill(1)
    world.up(1)
    world.propose([1, 2, 3])
    world.elapse(100, beating=[1, 2, 3])
    assert world.state().leader == 2


# Logs of earlier releases


def test_a_single_node_s_log_of_before_goes_on() -> None:
    """No BrokerChanged is in it: its registration counts as fenced, until the first start after the upgrade."""
    old: list[MetadataRecord] = [
        ClusterCreated(cluster_id="c"),
        BrokerRegistered(node=1, incarnation="a", directory_id="d", host="h", port=1, broker_epoch=1),
        Created(topic_id="1" * 32, name="t"),
        PartitionChanged(
            topic_id="1" * 32, partition=0, replicas=[1], isr=[1], leader=1, leader_epoch=4, partition_epoch=4
        ),
    ]
    machine = ControllerMachine(Defaults(), lambda: "f" * 32, MetadataImage())
    for offset, record in enumerate(old):
        machine.replay(offset, record)
    assert machine.found("other") == [] and machine.image.metadata_version == 1
    machine.lead(0.0)
    request = m.RegisterNode(
        node=1, incarnation="b", directory_id="d", host="h", port=1, boot_id="x", features={"metadata.version": [1, 2]}
    )
    registered = machine.handle(request, 0.0).reply
    assert isinstance(registered, m.NodeRegistered)
    decision = machine.handle(
        m.Heartbeat(node=1, broker_epoch=registered.broker_epoch, applied=registered.committed), 0.1
    )
    assert decision.reply == m.HeartbeatAnswered(fenced=False)
    [status, elected] = decision.records
    assert isinstance(status, BrokerChanged) and isinstance(elected, PartitionChanged)
    assert (elected.leader, elected.isr, elected.leader_epoch) == (1, [1], 6)


# Unregistered


def test_a_node_that_is_gone_for_good_is_forgotten_but_stays_a_replica() -> None:
    world = World()
    world.topic()
    world.ask(m.UnregisterNode(node=1))
    state = world.state()
    assert 1 not in world.image.brokers and 1 not in world.image.fenced
    assert 1 in state.replicas and 1 not in state.isr and state.leader in (2, 3)
    assert refused(world.ask(m.UnregisterNode(node=1))) == 102
    assert refused(world.ask(m.UnregisterNode(node=9))) == 102
    world.now += 10 * world.machine.settings.session_s
    assert all(node != 1 for node, *_ in statuses(world.record(world.machine.tick(world.now))))


def test_a_node_that_is_unregistered_while_it_runs_registers_again() -> None:
    world = World()
    before = world.epochs[1]
    incarnation, directory = world.image.brokers[1].incarnation, world.image.brokers[1].directory_id
    world.ask(m.UnregisterNode(node=1))
    assert refused(world.ask(m.Heartbeat(node=1, broker_epoch=before, applied=99))) == 77
    world.register(1, incarnation=incarnation, directory=directory)
    assert world.epochs[1] > before and not world.image.eligible(1)
    world.beat(1)
    assert world.image.eligible(1)
