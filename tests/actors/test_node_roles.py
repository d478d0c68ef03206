"""Leaders and followers of one host: who holds a directory, in which order they change, and what a lost one becomes."""

from __future__ import annotations

import pytest

from logeion.actors import messages as m
from logeion.actors.node.adoption import KILLED_S, START_S
from logeion.actors.node.events import Parted, Stale, Stop, Stray
from logeion.actors.node.local import OFFLINE_RETRY_S

from .host_world import Host

LEADER, FOLLOWER = "partition/orders-0", "replica/orders-0"


@pytest.fixture
def host() -> Host:
    host = Host()
    host.connect()
    host.join(2)
    host.join(3)
    host.settle()
    return host


def orders(host: Host, replicas: list[int], partitions: int = 1) -> str:
    topic_id = host.create("orders", partitions, replicas)
    host.settle()
    return topic_id


def downs(host: Host) -> list[m.DownReplica]:
    return [one for asked in host.to_controller if isinstance(asked, m.ReplicasDown) for one in asked.replicas]


# Roles


def test_a_node_runs_a_replica_of_what_another_leads_with_its_slice(host: Host) -> None:
    topic_id = orders(host, [2, 1])
    assert list(host.processes) == [FOLLOWER]
    start = host.processes[FOLLOWER]
    assert (start.kind, start.epoch) == ("replica", None)
    assert start.slice is not None and start.slice.broker_epoch == host.node.broker_epoch
    assert (start.slice.topic_id, start.slice.leader, start.slice.isr) == (topic_id, 2, [2, 1])
    assert start.slice.peers == {
        2: m.Peer(
            host="host2",
            port=9645,
            broker_epoch=host.controller.image.brokers[2].broker_epoch,
            eligible=True,
        )
    }
    assert not host.told, "gateways are told of leaders only"
    assert host.node.ready


def test_a_follower_that_is_elected_makes_way_before_the_leader_starts(host: Host) -> None:
    orders(host, [2, 1])
    host.elect("orders", 1)
    host.catch_up()
    [stop] = host.to_supervisor
    assert isinstance(stop, Stop) and stop.force and stop.actor == FOLLOWER
    host.supervise()
    assert [start.actor for start in host.to_supervisor] == [LEADER]  # type: ignore[union-attr]
    host.settle()
    assert not host.to_controller, "the epoch was committed while this Node lives"
    assert {actor: one.epoch for actor, one in host.processes.items()} == {LEADER: 1}
    assert host.node.ready


def test_a_leader_that_is_voted_out_is_asked_to_end_then_killed_then_followed(host: Host) -> None:
    orders(host, [1, 2])
    host.elect("orders", 2)
    host.catch_up()
    stop = host.to_supervisor.popleft()
    assert isinstance(stop, Stop) and not stop.force and stop.actor == LEADER
    host.elapse(0.25)
    stop = host.to_supervisor[0]
    assert isinstance(stop, Stop) and stop.force
    host.settle()
    assert list(host.processes) == [FOLLOWER]


def test_leaders_start_before_followers() -> None:
    host = Host(starts_max=2)
    host.connect()
    host.join(2)
    host.settle()
    for name, replicas in (("f", [2, 1]), ("l", [1, 2])):
        host.create(name, 3, replicas)
    host.catch_up()
    while host.to_supervisor:
        before = set(host.processes)
        host.supervise()
        for actor in set(host.processes) - before:
            host.greet(actor)
            host.run(actor)
    kinds = [start.kind for start in host.starts]
    assert kinds[-2:] == ["replica"] * 2 and kinds.count("partition") == 3
    assert sorted(kinds[:5]) == ["partition"] * 3 + ["replica"] * 2 or kinds[:3] == ["partition"] * 3


def test_a_replica_lives_across_leader_epochs_and_is_told_whom_to_follow(host: Host) -> None:
    orders(host, [2, 3, 1])
    incarnation = host.processes[FOLLOWER].incarnation
    host.tells.clear()
    host.elect("orders", 3)
    host.settle()
    assert host.processes[FOLLOWER].incarnation == incarnation
    [tell] = host.tells
    assert isinstance(tell.message, m.Slice) and (tell.message.leader, tell.message.leader_epoch) == (3, 1)
    assert tell.message.applied == host.node.applied


def test_what_nobody_leads_has_nothing_to_follow_but_who_runs_stays(host: Host) -> None:
    orders(host, [2, 1])
    host.change("orders", leader=-1, leader_epoch=1)
    host.settle()
    assert list(host.processes) == [FOLLOWER]
    host.kill(FOLLOWER)
    host.settle()
    assert not host.processes and host.node.ready
    host.elect("orders", 2)
    host.settle()
    assert list(host.processes) == [FOLLOWER]


def test_an_epoch_is_used_once_over_changes_of_role(host: Host) -> None:
    orders(host, [1, 2])
    for leader in (2, 1, 2, 1):
        host.elect("orders", leader)
        host.settle()
    host.kill(LEADER)
    host.settle()
    epochs = [start.epoch for start in host.forked if start.epoch is not None]
    assert epochs == [0, 2, 4, 5]


def test_an_election_that_is_over_before_the_replica_has_ended_starts_no_leader(host: Host) -> None:
    orders(host, [2, 1])
    host.elect("orders", 1)
    host.catch_up()
    host.elect("orders", 2)
    host.settle()
    assert list(host.processes) == [FOLLOWER]
    assert all(start.kind == "replica" for start in host.starts)


def test_a_fresh_node_adopts_leaders_and_followers(host: Host) -> None:
    orders(host, [1, 2])
    host.create("other", 1, [2, 1])
    host.settle()
    before = {actor: one.incarnation for actor, one in host.processes.items()}
    assert before.keys() == {LEADER, "replica/other-0"}
    host.tells.clear()
    host.boot()
    host.connect()
    host.settle()
    assert {actor: one.incarnation for actor, one in host.processes.items()} == before
    assert {tell.actor for tell in host.tells if isinstance(tell.message, m.Slice)} == set(before)


def test_a_process_that_a_dead_node_had_started_gives_way_to_the_right_one(host: Host) -> None:
    orders(host, [2, 1])
    host.kill(FOLLOWER)
    late = host.to_supervisor.popleft()
    host.boot()
    host.elect("orders", 1)
    host.connect()
    host.settle()
    host.to_supervisor.appendleft(late)
    host.supervise()
    host.greet(FOLLOWER)
    host.run(FOLLOWER)
    host.settle()
    assert list(host.processes) == [LEADER] and host.node.ready


# Removal


def test_a_replica_that_is_reassigned_away_is_ended_and_its_directory_removed(host: Host) -> None:
    topic_id = orders(host, [2, 1])
    host.change("orders", replicas=[2, 3], isr=[2, 3])
    host.settle()
    assert not host.processes and not host.node.locals
    assert [(one.topic_id, one.keep) for one in host.removed] == [(topic_id, False)]


def test_one_that_is_assigned_again_waits_for_the_removal_of_its_former_directory(host: Host) -> None:
    orders(host, [2, 1])
    host.change("orders", replicas=[2, 3], isr=[2, 3])
    host.catch_up()
    host.supervise()
    host.change("orders", replicas=[2, 3, 1])
    host.catch_up()
    assert not host.to_supervisor and len(host.removing) == 1
    host.settle()
    assert list(host.processes) == [FOLLOWER]


def test_an_assignment_that_came_back_while_the_node_was_down_costs_no_directory(host: Host) -> None:
    orders(host, [2, 1])
    host.processes.clear()
    host.change("orders", replicas=[2, 3], isr=[2, 3])
    host.change("orders", replicas=[2, 3, 1])
    host.boot()
    host.catch_up(len(host.log) - 1)
    host.connect()
    host.settle()
    assert not host.removed and list(host.processes) == [FOLLOWER]


def test_what_was_assigned_elsewhere_while_the_host_was_down_is_removed(host: Host) -> None:
    topic_id = orders(host, [2, 3])
    host.step(Stray(topic_id=topic_id, partition=0))
    assert [(one.topic, one.keep) for one in host.removing] == [("orders", False)]
    host.change("orders", replicas=[2, 3, 1])
    host.catch_up()
    assert not host.to_supervisor, "its name is not free yet"
    host.settle()
    assert list(host.processes) == [FOLLOWER]
    host.step(Stray(topic_id=topic_id, partition=0))
    assert not host.removing, "it is ours"


# Slices


def test_a_change_of_a_broker_is_one_pass_over_those_it_concerns(host: Host) -> None:
    host.create("a", 3, [1, 2])
    host.create("b", 2, [1, 3])
    host.settle()
    host.tells.clear()
    host.fence(2)
    applied = len(host.log)
    host.catch_up()
    slices = [tell.message for tell in host.tells if isinstance(tell.message, m.Slice)]
    assert [(one.partition, one.isr, one.peers[2].eligible) for one in slices] == [(at, [1], False) for at in range(3)]
    assert {one.applied for one in slices} == {applied}, "one a partition, however many records"


def test_what_changes_nothing_for_a_partition_is_not_told(host: Host) -> None:
    orders(host, [1, 2])
    host.tells.clear()
    host.create("other", 1, [2, 3])
    host.join(4)
    host.settle()
    assert not host.tells


def test_replicas_that_catch_up_share_the_rate_of_their_broker_and_are_told_their_new_part(host: Host) -> None:
    orders(host, [2, 1], partitions=4)
    for partition in range(4):
        host.change("orders", partition, isr=[2])
    for resource, name, key, value in (
        ("topic", "orders", "follower.replication.throttled.replicas", "*"),
        ("broker", "1", "follower.replication.throttled.rate", "1000"),
    ):
        change = m.ConfigChange(key=key, operation="set", value=value)
        host.ask(m.AlterConfigs(resource=resource, name=name, changes=[change]))
    host.settle()

    def told() -> dict[int, int]:
        return {one.message.partition: one.message.throttle for one in host.tells if isinstance(one.message, m.Slice)}

    assert told() == dict.fromkeys(range(4), 250)
    host.tells.clear()
    for partition in (0, 1):
        host.change("orders", partition, isr=[2, 1])
    host.settle()
    assert told() == {0: 0, 1: 0, 2: 500, 3: 500}


def test_a_new_registration_is_told_to_all(host: Host) -> None:
    orders(host, [2, 1])
    host.tells.clear()
    host.fence(1)
    host.boot_id = ""
    record = host.controller.image.brokers[1]
    host.controller.image.brokers[1] = type(record)(
        node=1, incarnation="other", directory_id="d", host="h", port=1, broker_epoch=record.broker_epoch
    )
    host.register()
    host.settle()
    tell = host.tells[-1]
    assert isinstance(tell.message, m.Slice) and tell.message.broker_epoch == host.node.broker_epoch
    assert tell.message.broker_epoch > record.broker_epoch


def test_one_that_connects_again_is_told_again(host: Host) -> None:
    orders(host, [2, 1])
    host.tells.clear()
    host.greet(FOLLOWER)
    assert [type(tell.message) for tell in host.tells] == [m.Configure, m.Slice]


def raise_min_isr(host: Host) -> None:
    change = m.ConfigChange(key="min.insync.replicas", operation="set", value="2")
    reply = host.ask(m.AlterConfigs(resource="topic", name="orders", changes=[change]))
    assert not isinstance(reply, m.Refused)


def test_one_whose_lane_has_closed_is_told_again_what_may_have_been_lost_with_it(host: Host) -> None:
    orders(host, [1, 2])
    incarnation = host.processes[LEADER].incarnation
    raise_min_isr(host)
    host.catch_up()
    host.tells.clear()
    host.step(Parted(actor=LEADER, incarnation=incarnation))
    host.greet(LEADER)
    assert [type(tell.message) for tell in host.tells] == [m.Configure, m.Slice]


def test_a_fresh_node_tells_nobody_what_its_predecessor_knew_to_be_past(host: Host) -> None:
    orders(host, [1, 2])
    raised_at = len(host.log)
    raise_min_isr(host)
    host.fence(2)
    host.settle()
    host.boot()
    host.tells.clear()
    host.list_actors()
    host.catch_up(raised_at)
    broker_epoch = host.controller.image.brokers[1].broker_epoch
    host.step(m.NodeRegistered(broker_epoch=broker_epoch, committed=len(host.log)))
    host.greet(LEADER)
    assert not host.tells, "it runs under a higher min.insync.replicas already"
    host.catch_up()
    configure, slice = (tell.message for tell in host.tells)
    assert isinstance(configure, m.Configure) and configure.configs["min.insync.replicas"] == "2"
    assert isinstance(slice, m.Slice) and slice.applied == len(host.log)


def test_a_fresh_node_that_reads_all_at_once_tells_of_configs_before_slices(host: Host) -> None:
    orders(host, [1, 2])
    raise_min_isr(host)
    host.settle()
    host.boot()
    host.tells.clear()
    host.list_actors()
    host.greet(LEADER)
    host.register()
    assert [type(tell.message) for tell in host.tells] == [m.Configure, m.Slice]


# Down, and lost


def test_a_crashed_leader_starts_again_here_though_others_could_lead(host: Host) -> None:
    orders(host, [1, 2])
    host.kill(LEADER)
    assert not downs(host)
    host.settle()
    assert host.processes[LEADER].epoch == 1


def test_a_leader_that_cannot_start_is_reported_and_another_elected(host: Host) -> None:
    topic_id = orders(host, [1, 2])
    host.kill(LEADER)
    host.answer_grant()
    host.supervise()
    host.greet(LEADER)
    host.kill(LEADER, status=70)
    assert downs(host) == [m.DownReplica(topic_id=topic_id, partition=0, leader_epoch=1)]
    assert len(host.to_controller) == 1, "no epoch is asked for before the controller has decided"
    host.settle()
    state = host.controller.image.partition(topic_id, 0)
    assert state is not None and state.leader == 2
    assert list(host.processes) == [FOLLOWER]


def test_a_leader_that_nobody_can_replace_is_started_again(host: Host) -> None:
    orders(host, [1, 2])
    host.fence(2)
    host.settle()
    host.kill(LEADER)
    host.answer_grant()
    host.supervise()
    host.kill(LEADER, status=70)
    assert not downs(host)
    host.elapse(1)
    host.settle()
    assert list(host.processes) == [LEADER]


def test_a_report_that_nobody_answers_does_not_keep_a_leader_from_starting(host: Host) -> None:
    orders(host, [1, 2])
    host.kill(LEADER)
    host.answer_grant()
    host.supervise()
    host.kill(LEADER, status=70)
    host.lose_grant(committed=False)
    host.elapse(1)
    host.settle()
    assert LEADER in host.processes


def test_reports_that_gather_go_out_together(host: Host) -> None:
    orders(host, [1, 2], 8)
    for partition in range(8):
        host.kill(f"partition/orders-{partition}", status=74)
    assert len(downs(host)) == 1
    host.answer_grant()
    assert len(downs(host)) == 7 and len(host.to_controller) == 1


def test_a_leader_that_recovers_for_long_is_reported_and_not_killed(host: Host) -> None:
    orders(host, [1, 2])
    host.kill(LEADER)
    host.answer_grant()
    host.supervise()
    host.greet(LEADER)
    host.elapse(START_S + 0.1)
    assert len(downs(host)) == 1 and not host.to_supervisor
    host.settle()
    assert list(host.processes) == [FOLLOWER]


def test_a_replica_that_will_not_make_way_is_reported(host: Host) -> None:
    topic_id = orders(host, [2, 1])
    host.elect("orders", 1)
    host.catch_up()
    host.to_supervisor.clear()
    host.elapse(KILLED_S + 0.1)
    assert downs(host) == [m.DownReplica(topic_id=topic_id, partition=0, leader_epoch=1)]
    host.settle()
    state = host.controller.image.partition(topic_id, 0)
    assert state is not None and state.leader == 2


def test_a_lost_log_leaves_the_isr_and_is_begun_afresh(host: Host) -> None:
    topic_id = orders(host, [1, 2])
    host.run(LEADER, "failed", "orders-0: a sync failed", 56)
    host.kill(LEADER, status=74)
    assert downs(host) == [m.DownReplica(topic_id=topic_id, partition=0, leader_epoch=0, lost=True)]
    host.answer_grant()
    state = host.controller.image.partition(topic_id, 0)
    assert state is not None and state.leader == 2 and state.isr == [2] and 1 not in state.elr
    assert [one.keep for one in host.removing] == [True]
    assert not host.processes and not host.to_supervisor
    host.settle()
    assert list(host.processes) == [FOLLOWER]
    assert not host.node.locals[topic_id, 0].offline


def test_a_follower_s_lost_log_too(host: Host) -> None:
    topic_id = orders(host, [2, 1])
    host.kill(FOLLOWER, status=74)
    assert downs(host) == [m.DownReplica(topic_id=topic_id, partition=0, leader_epoch=0, lost=True)]
    host.settle()
    state = host.controller.image.partition(topic_id, 0)
    assert state is not None and state.isr == [2]
    assert [one.keep for one in host.removed] == [True] and list(host.processes) == [FOLLOWER]


def test_a_lost_log_is_told_until_the_controller_has_heard(host: Host) -> None:
    orders(host, [2, 1])
    host.kill(FOLLOWER, status=74)
    for _ in range(3):
        host.lose_grant(committed=False)
        assert not host.removing and not host.to_supervisor
        host.elapse(1.1)
    host.settle()
    assert list(host.processes) == [FOLLOWER]


def test_a_disk_that_fails_again_and_again_is_not_tried_again_and_again(host: Host) -> None:
    orders(host, [2, 1])
    for _ in range(5):
        if FOLLOWER in host.processes:
            host.kill(FOLLOWER, status=74)
        host.settle()
    assert len(host.removed) == 1 and not host.processes
    host.elapse(OFFLINE_RETRY_S + 1)
    host.settle()
    assert len(host.removed) == 2 and list(host.processes) == [FOLLOWER]


def test_the_only_replica_s_lost_log_stays_and_is_tried_again(host: Host) -> None:
    topic_id = orders(host, [1])
    host.run(LEADER, "failed", "a sync failed", 56)
    host.kill(LEADER, status=74)
    assert not host.to_controller
    host.elapse(OFFLINE_RETRY_S + 1)
    host.settle()
    assert list(host.processes) == [LEADER] and not host.removed
    assert not host.node.locals[topic_id, 0].offline


def test_a_directory_that_cannot_be_set_aside_is_tried_again(host: Host) -> None:
    orders(host, [2, 1])
    host.kill(FOLLOWER, status=74)
    host.answer_grant()
    host.remove(failed=True)
    assert not host.to_supervisor and not host.removing
    host.elapse(OFFLINE_RETRY_S + 1)
    host.settle()
    assert list(host.processes) == [FOLLOWER]


def test_nothing_is_started_while_the_node_is_not_registered() -> None:
    """Without a registration there is no slice, and a replica cannot begin without one."""
    host = Host()
    host.connect()
    host.join(2)
    host.create("orders", replicas=[2, 1])
    host.settle()
    before = len(host.starts)
    host.step(Stale())
    host.kill("replica/orders-0")
    assert len(host.starts) == before and host.registering
    host.settle()
    assert len(host.starts) == before + 1 and host.starts[-1].slice is not None
