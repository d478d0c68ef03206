"""Reassignments: replicas are added, caught up with, and only then taken away; and where new ones are placed."""

from __future__ import annotations

from itertools import pairwise

import pytest

from logeion.actors import messages as m
from logeion.actors.controller.placement import place
from tests.actors.controller_world import World


def reassign(
    world: World, replicas: list[int] | None, *, factor: bool = True, topic: str = "t", number: int = 0
) -> int:
    wanted = m.PartitionToReassign(topic=topic, partition=number, replicas=replicas)
    reply = world.ask(m.ReassignPartitions(partitions=[wanted], allow_factor_change=factor))
    assert isinstance(reply, m.PartitionsDecided) and reply.committed == len(world.log)
    [result] = reply.results
    assert bool(result.reason) == bool(result.code)
    return result.code


@pytest.fixture
def world() -> World:
    world = World(5)
    world.topic("t", [1, 2, 3])
    return world


def test_all_targets_are_in_sync_before_the_others_go(world: World) -> None:
    assert reassign(world, [4, 5, 1]) == 0
    state = world.state()
    assert (state.replicas, state.adding, state.removing) == ([4, 5, 1, 2, 3], [4, 5], [2, 3])
    assert (state.leader, state.leader_epoch, state.isr) == (1, 0, [1, 2, 3])
    assert [one.partition for one in world.image.reassigning()] == [0]
    assert world.image.under_replicated() == []
    world.propose([1, 2, 3, 4])
    assert world.state().removing == [2, 3]
    reply = world.propose([1, 2, 3, 4, 5])
    state = world.state()
    assert (state.replicas, state.adding, state.removing, state.isr) == ([4, 5, 1], [], [], [4, 5, 1])
    assert (state.leader, state.leader_epoch) == (1, 1), "a replica less is a new epoch"
    assert reply.leader_epoch == 1 and reply.isr == [4, 5, 1]
    assert world.image.reassigning() == []


def test_a_leader_that_is_moved_away_is_replaced_at_the_end(world: World) -> None:
    reassign(world, [4, 2])
    assert world.propose([1, 2, 3, 4]).leader == 4
    assert world.shown() == (4, [4, 2], [])


def test_what_takes_nothing_new_is_done_at_once(world: World) -> None:
    assert reassign(world, [3, 1, 2]) == 0
    state = world.state()
    assert (state.replicas, state.leader, state.leader_epoch, state.partition_epoch) == ([3, 1, 2], 1, 0, 1)
    assert reassign(world, [3, 1, 2]) == 0 and world.state() is state
    assert reassign(world, [3]) == 0
    assert world.shown() == (3, [3], []) and world.state().replicas == [3]


def test_a_smaller_set_waits_for_those_that_are_behind(world: World) -> None:
    world.propose([1, 2])
    reassign(world, [1, 3])
    assert (world.state().replicas, world.state().removing) == ([1, 3, 2], [2])
    world.propose([1, 2, 3])
    assert (world.state().replicas, world.state().isr) == ([1, 3], [1, 3])


def test_a_reassignment_is_cancelled(world: World) -> None:
    assert reassign(world, None) == 85
    reassign(world, [4, 5, 1])
    world.propose([1, 2, 3, 4])
    assert reassign(world, None) == 0
    state = world.state()
    assert sorted(state.replicas) == [1, 2, 3] and sorted(state.isr) == [1, 2, 3]
    assert not state.adding and not state.removing and state.leader == 1
    assert reassign(world, None) == 85


def test_a_reassignment_is_replaced_by_another(world: World) -> None:
    reassign(world, [4, 5, 1])
    world.propose([1, 2, 3, 4])
    assert reassign(world, [5, 2, 3]) == 0
    state = world.state()
    assert (state.replicas, state.adding, state.removing) == ([5, 2, 3, 1], [5], [1])
    assert sorted(state.isr) == [1, 2, 3]


def test_the_last_in_sync_is_not_cancelled_away(world: World) -> None:
    reassign(world, [4])
    world.propose([1, 4])
    assert world.state().replicas == [4]
    reassign(world, [5])
    assert world.state().replicas == [5, 4]
    world.beat(5, stopping=True)
    assert reassign(world, None) == 0

    world.topic("u", [1])
    reassign(world, [2, 3], topic="u")
    world.propose([1, 2], topic="u")
    world.kill(1)
    assert world.shown(topic="u") == (2, [2], [])
    assert reassign(world, None, topic="u") == 39
    world.configure("u", "unclean.leader.election.enable", "true")
    assert reassign(world, None, topic="u") == 0
    assert world.shown(topic="u") == (-1, [], [])


@pytest.mark.parametrize(
    ("replicas", "code"), [([], 39), ([1, 1], 39), ([1, 9], 39), ([-1], 39), ([1, 2], 38), ([1, 2, 3, 4], 38)]
)
def test_what_cannot_be_is_refused(world: World, replicas: list[int], code: int) -> None:
    assert reassign(world, replicas, factor=False) == code
    assert world.state().partition_epoch == 0


def test_the_factor_counts_without_what_is_only_being_added(world: World) -> None:
    reassign(world, [4, 5, 1])
    assert reassign(world, [4, 5, 2], factor=False) == 0


def test_unknown_partitions_are_named_so(world: World) -> None:
    assert reassign(world, [1], topic="no") == 3
    assert reassign(world, [1], number=7) == 3


def test_a_partition_s_leader_may_fail_on_the_way(world: World) -> None:
    reassign(world, [4, 5, 1])
    world.propose([1, 2, 3, 4])
    world.kill(1)
    assert world.state().leader == 4 and world.state().adding == [4, 5]
    world.propose([4, 2, 3, 5])
    assert world.state().adding == [4, 5]
    world.up(1)
    world.propose([1, 2, 3, 4, 5])
    assert world.state().replicas == [4, 5, 1] and world.shown() == (4, [4, 5, 1], [])


def test_new_partitions_of_a_topic_under_way_get_the_factor_it_will_have(world: World) -> None:
    reassign(world, [4, 5])
    world.ask(m.CreatePartitions(topics=[m.GrowTopic(name="t", count=2)]))
    assert len(world.state(1).replicas) == 2


# Where new replicas go

RACKS = {1: "a", 2: "a", 3: "b", 4: "b", 5: "c", 6: "c"}


@pytest.mark.parametrize("factor", [2, 3, 4, 6])
def test_replicas_are_on_as_many_racks_as_there_are(factor: int) -> None:
    for replicas in place(list(RACKS), 60, factor, 0, RACKS):
        assert len(set(replicas)) == factor
        counts = [sum(RACKS[node] == rack for node in replicas) for rack in "abc"]
        assert max(counts) - min(counts) <= 1


def test_leaders_and_replicas_are_spread_over_racks_and_nodes() -> None:
    placed = place(list(RACKS), 60, 3, 0, RACKS)
    leaders = [replicas[0] for replicas in placed]
    assert {node: leaders.count(node) for node in RACKS} == dict.fromkeys(RACKS, 10)
    assert all(RACKS[one] != RACKS[other] for one, other in pairwise(leaders))
    everywhere = [node for replicas in placed for node in replicas]
    assert all(20 <= everywhere.count(node) <= 40 for node in RACKS)


def test_a_rack_alone_gets_one_replica_of_each_and_no_more_than_it_must() -> None:
    racks = {1: "a", 2: "a", 3: "a", 4: "b"}
    assert all(4 in replicas for replicas in place(list(racks), 12, 2, 0, racks))


def test_nodes_without_a_rack_are_spread_as_if_each_had_its_own() -> None:
    assert place([1, 2, 3], 6, 2, 0) == place([1, 2, 3], 6, 2, 0, {1: None, 2: None, 3: None})


def test_new_topics_are_placed_by_the_racks_of_the_nodes() -> None:
    world = World(6, racks=RACKS)
    world.ask(m.CreateTopics(topics=[m.TopicToCreate(name="t", partitions=12, replication_factor=3)]))
    for number in range(12):
        assert {RACKS[node] for node in world.state(number).replicas} == {"a", "b", "c"}


def test_only_nodes_that_live_get_replicas_unless_the_factor_takes_all() -> None:
    world = World(4)
    world.kill(2)
    wanted = [
        m.TopicToCreate(name="t", partitions=6, replication_factor=3),
        m.TopicToCreate(name="u", partitions=6, replication_factor=4),
        m.TopicToCreate(name="v", replication_factor=5),
    ]
    reply = world.ask(m.CreateTopics(topics=wanted))
    assert isinstance(reply, m.TopicsChanged) and [one.code for one in reply.results] == [0, 0, 38]
    for number in range(6):
        assert sorted(world.state(number).replicas) == [1, 3, 4]
        state = world.state(number, "u")
        assert sorted(state.replicas) == [1, 2, 3, 4] and state.replicas[3] == 2 and 2 not in state.isr
    assert len(world.image.under_replicated()) == 6


def test_a_factor_of_zero_is_ours_to_ask_for() -> None:
    world = World(5)
    wanted = [m.TopicToCreate(name="__consumer_offsets", replication_factor=0)]
    world.ask(m.CreateTopics(topics=wanted, internal=True))
    assert len(world.state(0, "__consumer_offsets").replicas) == 3


def test_an_assignment_by_hand_leads_where_somebody_lives() -> None:
    world = World()
    world.kill(1)
    world.topic("t", [1, 2])
    assert world.shown() == (2, [2], [])
    wanted = [m.TopicToCreate(name="u", assignments={0: [1]})]
    reply = world.ask(m.CreateTopics(topics=wanted))
    assert isinstance(reply, m.TopicsChanged) and reply.results[0].code == 39


def test_without_any_node_nothing_is_placed() -> None:
    world = World(1)
    world.kill(1)
    reply = world.ask(m.CreateTopics(topics=[m.TopicToCreate(name="t")]))
    assert isinstance(reply, m.TopicsChanged) and reply.results[0].code == 38
