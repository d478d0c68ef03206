"""The node's machine, beside the real controller's and a supervisor of a few lines."""

from __future__ import annotations

from itertools import count

import msgspec
import pytest

from logeion.actors import messages as m
from logeion.actors.metadata import ClusterCreated
from logeion.actors.node.events import Greeted, Parted, Reported, Start, Stop, Tell
from logeion.actors.node.local import BACKOFF_MAX_S, FAILED_STARTS_MAX, OFFLINE_RETRY_S

from .host_world import GATEWAY, Host


@pytest.fixture
def host() -> Host:
    host = Host()
    host.connect()
    host.settle()
    return host


def running(host: Host) -> list[tuple[int, int]]:
    return [(one.partition, one.epoch) for one in host.told if isinstance(one, m.PartitionRunning)]


def test_a_new_topic_starts_in_the_epoch_of_its_creation_without_asking(host: Host) -> None:
    host.create("orders", 3)
    host.catch_up()
    assert [start.epoch for start in host.starts] == [0, 0, 0]
    assert not host.to_controller
    host.settle()
    assert running(host) == [(0, 0), (1, 0), (2, 0)]
    assert host.node.ready


def test_a_killed_partition_is_granted_an_epoch_and_started_at_once(host: Host) -> None:
    topic_id = host.create("orders")
    host.settle()
    host.told.clear()
    host.kill("partition/orders-0")
    [asked] = host.to_controller
    assert isinstance(asked, m.GrantEpochs)
    assert asked.partitions == [m.GrantRequest(topic_id=topic_id, partition=0, seen_epoch=0)]
    assert host.told == [m.PartitionStopped(topic_id=topic_id, partition=0, epoch=0)]
    host.settle()
    assert host.processes["partition/orders-0"].epoch == 1
    assert running(host) == [(0, 1)]


def test_after_a_full_restart_all_partitions_are_granted_in_one_request() -> None:
    host = Host(starts_max=1000)
    host.connect()
    host.create("orders", 100)
    host.settle()
    host.processes.clear()
    host.boot()
    host.connect()
    [asked] = host.to_controller
    assert isinstance(asked, m.GrantEpochs) and len(asked.partitions) == 100
    host.settle()
    assert {start.epoch for start in host.processes.values()} == {1}
    assert host.node.ready


def test_a_clock_that_was_set_back_gives_no_incarnation_that_others_would_take_for_an_old_one(host: Host) -> None:
    host.create("orders", 2)
    host.settle()
    late = host.starts[-1].incarnation + 1_000_000
    host.incarnations = count(-5)
    host.boot()
    host.connect()
    assert host.node.new_incarnation() > late - 1_000_000, "the Supervisor tells in its list what it was asked for"
    # What the predecessor had asked for is started after the list was made.
    host.step(m.ActorStarted(actor="partition/orders-7", incarnation=late, pid=1))
    assert host.node.new_incarnation() > late


def test_a_list_that_a_predecessor_asked_for_says_nothing_of_our_starts(host: Host) -> None:
    host.create("orders")
    host.catch_up()
    while not host.starts:
        host.answer_grant()
    host.step(m.ActorsListed(actors=[], number=3))
    assert len(host.starts) == 1
    host.settle()
    assert len(host.starts) == 1 and host.node.ready


@pytest.mark.parametrize("lost", ["all", "the topic", "the cluster"])
def test_a_snapshot_of_former_times_or_of_another_cluster_removes_nothing(host: Host, lost: str) -> None:
    """A controller that has just started, and reaches nobody of the quorum, may know nothing at all."""
    records = [] if lost == "all" else host.controller.image.records()
    offset = 0 if lost == "all" else len(host.log)
    if lost == "the cluster":
        records, offset = [ClusterCreated(cluster_id="another")], len(host.log) + 100
    topic_id = host.create("orders")
    host.settle()
    before, image = host.node.applied, host.node.image
    host.step(m.Committed(offset=0, next_offset=offset, records=records, snapshot=True, leader=-1))
    host.settle()
    assert (host.node.applied, host.node.image) == (before, image)
    assert host.removed == [] and host.node.serving_epoch((topic_id, 0)) == 0
    host.delete("orders")
    host.settle()
    assert [one.topic_id for one in host.removed] == [topic_id]


def test_a_snapshot_tells_what_to_start_but_none_of_its_epochs_may_be_used(host: Host) -> None:
    host.create("orders", 2)
    host.settle()
    host.processes.clear()
    host.boot()
    host.connect(snapshot=True)
    host.settle()
    assert {start.epoch for start in host.processes.values()} == {1}


def test_a_fresh_node_adopts_who_runs_in_the_current_epoch(host: Host) -> None:
    host.create("orders", 2)
    host.settle()
    before = dict(host.processes)
    host.boot()
    host.connect()
    host.settle()
    assert host.processes == before
    assert sorted(running(host)) == [(0, 0), (1, 0)]
    assert host.node.ready


def test_what_actors_say_before_the_supervisor_has_listed_them_is_not_lost(host: Host) -> None:
    host.create("orders")
    host.settle()
    before = dict(host.processes)
    host.boot()
    host.greet("partition/orders-0")
    host.run("partition/orders-0")
    host.connect()
    host.settle()
    assert host.processes == before
    assert host.node.ready


def test_a_process_found_by_a_fresh_node_that_says_nothing_is_killed(host: Host) -> None:
    host.create("orders")
    host.settle()
    host.boot()
    host.connect(silent=True)
    host.elapse(10)
    assert any(isinstance(one, Stop) and one.force for one in host.to_supervisor)
    host.settle()
    assert host.processes["partition/orders-0"].epoch == 1


def test_an_epoch_granted_to_a_node_that_died_before_it_heard_is_used_by_its_successor(host: Host) -> None:
    host.create("orders")
    host.settle()
    host.kill("partition/orders-0")
    request = host.to_controller.popleft()
    host.boot()
    host.connect()
    # The old Node's request reaches the controller late, when the new one has already asked for epoch 1.
    host.ask(request)
    host.settle()
    assert [start.epoch for start in host.forked] == [0, 1]


def test_a_lost_grant_is_asked_for_again_and_none_is_used_twice(host: Host) -> None:
    host.create("orders")
    host.settle()
    host.kill("partition/orders-0")
    host.lose_grant(committed=True)
    host.catch_up()
    host.elapse(1)
    host.settle()
    assert [start.epoch for start in host.forked] == [0, 1]
    host.kill("partition/orders-0")
    host.lose_grant(committed=False)
    host.elapse(1)
    host.settle()
    assert [start.epoch for start in host.forked] == [0, 1, 2]


def test_no_more_than_the_limit_start_at_once(host: Host) -> None:
    host.create("orders", 10)
    host.catch_up()
    assert len(host.to_supervisor) == 4
    host.supervise()
    assert len(host.starts) == 4
    host.greet("partition/orders-0")
    host.run("partition/orders-0")
    assert len(host.starts) == 5


def test_a_partition_that_fails_at_every_start_backs_off_and_goes_offline_with_its_cause(host: Host) -> None:
    topic_id = host.create("orders")
    host.catch_up()
    delays = []
    for _ in range(FAILED_STARTS_MAX):
        began = host.now
        while not host.to_supervisor:
            host.elapse(0.05)
            while host.to_controller:
                host.answer_grant()
        delays.append(host.now - began)
        host.supervise()
        host.greet("partition/orders-0")
        host.run("partition/orders-0", "failed", "orders-0: the disk is full")
        host.kill("partition/orders-0")
    assert delays[1] < 0.1
    assert delays == sorted(delays)
    assert delays[-1] <= BACKOFF_MAX_S + 0.1
    assert host.told[-1] == m.PartitionStopped(
        topic_id=topic_id, partition=0, epoch=FAILED_STARTS_MAX - 1, cause="orders-0: the disk is full", code=56
    )
    assert host.node.ready, "an offline partition keeps nobody waiting"
    host.elapse(OFFLINE_RETRY_S)
    host.settle()
    assert running(host)[-1] == (0, FAILED_STARTS_MAX)


def test_a_failure_that_needs_a_person_goes_offline_at_once(host: Host) -> None:
    host.create("orders")
    host.catch_up()
    host.supervise()
    host.greet("partition/orders-0")
    host.run("partition/orders-0", "failed", "a sync failed", 56)
    host.kill("partition/orders-0")
    stopped = host.told[-1]
    assert isinstance(stopped, m.PartitionStopped) and stopped.cause == "a sync failed"
    host.elapse(OFFLINE_RETRY_S / 2)
    assert not host.to_controller


def test_a_partition_killed_every_second_comes_back_without_delay(host: Host) -> None:
    host.create("orders")
    host.settle()
    for _ in range(50):
        host.elapse(1)
        host.kill("partition/orders-0")
        assert host.to_controller, "no backoff"
        host.settle()


def test_a_partition_that_crashes_as_soon_as_it_serves_is_slowed_down(host: Host) -> None:
    host.create("orders")
    host.settle()
    crashes = 0
    for _ in range(3000):
        if "partition/orders-0" in host.processes:
            host.kill("partition/orders-0")
            crashes += 1
        host.elapse(0.01)
        host.settle()
    assert crashes < 200


def test_a_deleted_topic_s_process_is_killed_then_its_directory_removed(host: Host) -> None:
    topic_id = host.create("orders")
    host.settle()
    host.delete("orders")
    host.catch_up()
    [stop] = host.to_supervisor
    assert isinstance(stop, Stop) and stop.force
    assert not host.removing
    host.supervise()
    assert [(one.topic, one.topic_id) for one in host.removing] == [("orders", topic_id)]
    host.settle()
    assert not host.node.locals


def test_a_topic_created_again_waits_until_its_predecessor_s_directory_is_gone(host: Host) -> None:
    host.create("orders")
    host.settle()
    host.delete("orders")
    again = host.create("orders")
    host.catch_up()
    assert [start.topic_id for start in host.starts if start.topic_id == again] == []
    host.supervise()
    assert not host.to_supervisor
    host.remove()
    host.settle()
    assert host.processes["partition/orders-0"].topic_id == again
    assert host.node.ready


def test_a_topic_deleted_while_the_node_was_down_is_removed_when_the_log_is_read(host: Host) -> None:
    topic_id = host.create("orders")
    host.settle()
    host.delete("orders")
    host.boot()
    host.connect()
    host.settle()
    assert [one.topic_id for one in host.removed] == [topic_id]
    assert not host.processes


def test_a_directory_goes_whoever_of_those_that_had_its_name_has_left_it(host: Host) -> None:
    """A fresh Node frees the name for a second topic, whose files lie there already; then that is deleted, too."""
    first = host.create("orders")
    host.settle()
    host.delete("orders")
    second = host.create("orders")
    host.settle()
    host.processes.clear()
    host.removed.clear()
    host.boot()
    host.connect()
    assert [one.topic_id for one in host.removing] == [first]
    host.delete("orders")
    third = host.create("orders")
    host.catch_up()
    host.settle()
    assert [one.topic_id for one in host.removed] == [first, second]
    assert host.processes["partition/orders-0"].topic_id == third
    assert host.node.ready and [key[0] for key in host.node.locals] == [third]


def test_those_that_had_the_name_of_a_process_before_it_are_forgotten_when_it_ends(host: Host) -> None:
    for _ in range(2):
        host.create("orders")
        host.delete("orders")
    third = host.create("orders")
    host.settle()
    host.removed.clear()
    host.boot()
    host.connect()
    host.kill("partition/orders-0")
    host.settle()
    assert host.processes["partition/orders-0"].topic_id == third and not host.removed
    assert [key[0] for key in host.node.locals] == [third]


def test_changed_configs_reach_the_running_actor_once(host: Host) -> None:
    host.create("orders")
    host.settle()
    change = m.ConfigChange(key="retention.ms", operation="set", value="5000")
    host.ask(m.AlterConfigs(resource="topic", name="orders", changes=[change]))
    sent = host.node.step(m.Committed(offset=len(host.log) - 1, next_offset=len(host.log), records=host.log[-1:]), 0)
    told = [one.message for one in sent if isinstance(one, Tell)]
    assert told == [m.Configure(configs={"retention.ms": "5000"})]
    host.kill("partition/orders-0")
    host.settle()
    assert host.processes["partition/orders-0"].configs == {"retention.ms": "5000"}


def test_configs_that_changed_unheard_reach_the_running_actor_by_a_snapshot_before_its_slice(host: Host) -> None:
    host.join(2)
    host.create("orders", replicas=[1, 2])
    host.settle()
    host.ask(
        m.AlterConfigs(
            resource="topic",
            name="orders",
            changes=[m.ConfigChange(key="min.insync.replicas", operation="set", value="2")],
        )
    )
    host.fence(2)
    records = host.controller.image.records()
    sent = host.node.step(m.Committed(offset=0, next_offset=len(host.log), records=records, snapshot=True), 0)
    told = [one.message for one in sent if isinstance(one, Tell)]
    assert isinstance(told[0], m.Configure) and told[0].configs["min.insync.replicas"] == "2"
    assert isinstance(told[-1], m.Slice)


def test_a_gateway_that_comes_back_is_told_who_runs(host: Host) -> None:
    host.create("orders", 2)
    host.settle()
    host.told.clear()
    host.step(Parted(actor=GATEWAY.actor, incarnation=0))
    assert "no gateway listens" in host.node.unready()
    host.step(Greeted(hello=GATEWAY))
    assert sorted(running(host)) == [(0, 0), (1, 0)]


def test_nothing_is_started_while_the_host_stops(host: Host) -> None:
    host.create("orders")
    host.settle()
    host.step(Reported(actor=GATEWAY.actor, incarnation=0, change=m.StateChanged(state="stopping")))
    host.kill("partition/orders-0")
    host.elapse(60)
    assert not host.to_controller
    host.step(Greeted(hello=GATEWAY))
    assert host.to_controller


def test_a_start_that_the_supervisor_never_answers_is_looked_for_and_repeated(host: Host) -> None:
    host.create("orders")
    host.catch_up()
    host.to_supervisor.clear()
    host.elapse(11)
    host.settle()
    assert host.processes["partition/orders-0"].epoch == 1


def test_an_exit_that_is_never_told_is_found_out(host: Host) -> None:
    host.create("orders")
    host.settle()
    gone = host.processes.pop("partition/orders-0")
    host.step(Parted(actor=gone.actor, incarnation=gone.incarnation))
    host.elapse(1.1)
    host.settle()
    assert host.processes["partition/orders-0"].epoch == 1 and host.node.ready


def test_one_that_is_told_to_end_and_whose_exit_is_never_told_is_found_out(host: Host) -> None:
    host.create("orders")
    host.settle()
    host.delete("orders")
    host.catch_up()
    host.to_supervisor.clear()
    host.processes.clear()
    host.elapse(7)
    host.settle()
    assert not host.node.processes and not host.node.locals


def test_an_old_list_does_not_make_anybody_disappear(host: Host) -> None:
    """Seen in a cluster: a Replica that ran was started again for ever, and refused, for its Node had forgotten it."""
    old = m.ActorsListed(actors=[])
    host.create("orders")
    host.settle()
    host.step(old)
    assert not host.to_supervisor and host.node.ready


def test_a_list_that_was_asked_for_before_a_start_says_nothing_of_it(host: Host) -> None:
    host.node.ask_list()
    number = host.node.listing
    host.create("orders")
    host.settle()
    host.step(m.ActorsListed(actors=[], number=number))
    assert not host.to_supervisor and host.node.ready


def test_one_that_nobody_asked_for_is_ended_and_ours_started(host: Host) -> None:
    host.create("orders")
    host.settle()
    other = msgspec.structs.replace(host.processes["partition/orders-0"], incarnation=7)
    host.processes["partition/orders-0"] = other
    host.step(Parted(actor=other.actor, incarnation=host.node.processes[other.actor].incarnation))
    host.elapse(1.1)
    host.settle()
    assert host.processes["partition/orders-0"].incarnation != 7 and host.node.ready


def test_one_whose_lane_is_back_soon_is_left_alone(host: Host) -> None:
    host.create("orders")
    host.settle()
    process = host.processes["partition/orders-0"]
    host.step(Parted(actor=process.actor, incarnation=process.incarnation))
    host.greet(process.actor)
    host.run(process.actor)
    host.elapse(5)
    assert not host.to_supervisor and host.node.ready


def test_exits_reported_twice_or_late_change_nothing(host: Host) -> None:
    host.create("orders")
    host.settle()
    old = host.processes["partition/orders-0"]
    host.kill("partition/orders-0")
    host.settle()
    host.told.clear()
    host.step(m.ActorExited(actor=old.actor, incarnation=old.incarnation))
    assert not host.told
    assert host.node.ready


def test_a_leader_in_an_older_epoch_is_replaced(host: Host) -> None:
    topic_id = host.create("orders")
    host.settle()
    epoch = host.controller.image.brokers[1].broker_epoch
    asked = m.GrantRequest(topic_id=topic_id, partition=0, seen_epoch=0)
    host.ask(m.GrantEpochs(node=1, broker_epoch=epoch, partitions=[asked]))
    host.settle()
    assert host.processes["partition/orders-0"].epoch == 1


def test_a_start_of_the_predecessor_that_comes_late_gives_way(host: Host) -> None:
    host.create("orders")
    host.settle()
    host.kill("partition/orders-0")
    host.answer_grant()
    late = host.to_supervisor.popleft()
    assert isinstance(late, Start)
    host.boot()
    host.connect()
    host.to_supervisor.appendleft(late)
    host.settle()
    host.elapse(10)
    host.settle()
    epochs = [start.epoch for start in host.forked]
    assert len(epochs) == len(set(epochs))
    assert host.node.ready


def test_a_process_that_spoke_and_died_before_the_list_came_is_not_believed_to_run() -> None:
    """Found by the storm (test_node_epochs): its greeting was kept for later, and its exit was not."""
    host = Host()
    host.connect()
    host.create("orders")
    host.catch_up()
    # The node dies with its order under way, which is carried out while its successor knows nobody yet.
    order = host.to_supervisor.popleft()
    host.boot()
    host.to_supervisor.appendleft(order)
    host.supervise()
    host.greet("partition/orders-0")
    host.run("partition/orders-0")
    host.kill("partition/orders-0")
    host.connect()
    host.settle()
    assert [process.epoch for process in host.processes.values()] == [1]
