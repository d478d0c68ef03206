from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from logeion.actors import messages as m
from logeion.actors.gateway.leaders_admin import (
    alter_partition_reassignments,
    elect_leaders,
    list_partition_reassignments,
)
from logeion.actors.lanes import LaneClosed, RefusedError
from logeion.wire.apis import (
    AlterPartitionReassignmentsRequest,
    ElectLeadersRequest,
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsTopics,
    ReassignablePartition,
    ReassignableTopic,
    TopicPartitionsToElect,
)
from tests.actors.gateway_world import ORDERS, World, partition

ELECT = ElectLeadersRequest(topic_partitions=[TopicPartitionsToElect(topic="orders", partitions=[0, 1, 0])])


def ask(world: World, handler: Any, key: int, version: int, request: Any) -> Any:
    ours, _ = asyncio.run(world.ask(handler, key, version, request))
    return ours


def dying_first(world: World, then: Callable[[m.Message], m.Message]) -> None:
    """A controller that dies over the first request."""

    def first(message: m.Message) -> m.Message:
        world.controller = then
        raise LaneClosed("killed")

    world.controller = first


def deciding(asked: list[m.Message], *codes: int) -> Callable[[m.Message], m.Message]:
    def controller(message: m.Message) -> m.Message:
        asked.append(message)
        results = [
            m.PartitionResult(topic="orders", partition=at, code=code, reason="why" if code else "")
            for at, code in enumerate(codes)
        ]
        return m.PartitionsDecided(results=results, committed=90)

    return controller


def elected(ours: Any) -> list[tuple[str, int, int, str | None]]:
    return [
        (topic.topic, one.partition_id, one.error_code, one.error_message)
        for topic in ours.replica_election_results
        for one in topic.partition_result
    ]


@pytest.mark.parametrize("version", range(3))
def test_leaders_are_elected_partition_by_partition(version: int) -> None:
    world, asked = World(), []
    world.controller = deciding(asked, 0, 83)
    unclean = version >= 1
    request = msgspec.structs.replace(ELECT, election_type=1 if unclean else 0)
    ours = ask(world, elect_leaders, 43, version, request)
    assert elected(ours) == [("orders", 0, 0, None), ("orders", 1, 83, "why")]
    assert ours.error_code == 0
    [message] = asked
    partitions = [m.PartitionToElect(topic="orders", partition=0), m.PartitionToElect(topic="orders", partition=1)]
    assert message == m.ElectLeaders(partitions=partitions, unclean=unclean)
    assert world.applied_waits == [90]


def test_asked_for_all_partitions_it_tells_of_those_that_needed_it() -> None:
    world, asked = World(), []
    world.controller = deciding(asked, 84, 0)
    ours = ask(world, elect_leaders, 43, 2, ElectLeadersRequest(topic_partitions=None))
    assert elected(ours) == [("orders", 1, 0, None)]
    assert asked == [m.ElectLeaders(partitions=None)]


def test_an_election_whose_first_answer_was_lost_counts_as_done() -> None:
    world, asked = World(), []
    dying_first(world, deciding(asked, 84, 80))
    ours = ask(world, elect_leaders, 43, 2, ELECT)
    assert elected(ours) == [("orders", 0, 0, None), ("orders", 1, 80, "why")]


@pytest.mark.parametrize("version", range(1, 3))
def test_an_unknown_type_of_election_is_refused(version: int) -> None:
    ours = ask(World(), elect_leaders, 43, version, msgspec.structs.replace(ELECT, election_type=7))
    assert ours.error_code == 42 and [row[2] for row in elected(ours)] == [42, 42]


def moving(*replicas: list[int] | None) -> AlterPartitionReassignmentsRequest:
    partitions = [ReassignablePartition(partition_index=at, replicas=one) for at, one in enumerate(replicas)]
    return AlterPartitionReassignmentsRequest(topics=[ReassignableTopic(name="orders", partitions=partitions)])


def rows(ours: Any) -> list[tuple[str, int, int]]:
    return [(topic.name, one.partition_index, one.error_code) for topic in ours.responses for one in topic.partitions]


@pytest.mark.parametrize("version", range(2))
def test_replicas_are_reassigned_and_reassignments_cancelled(version: int) -> None:
    world, asked = World(), []
    world.controller = deciding(asked, 0, 85)
    ours = ask(world, alter_partition_reassignments, 45, version, moving([2, 1], None))
    assert rows(ours) == [("orders", 0, 0), ("orders", 1, 85)]
    assert (ours.error_code, ours.error_message) == (0, None)
    wanted = [
        m.PartitionToReassign(topic="orders", partition=0, replicas=[2, 1]),
        m.PartitionToReassign(topic="orders", partition=1),
    ]
    assert asked == [m.ReassignPartitions(partitions=wanted)]
    assert world.applied_waits == [90]


def test_a_reassignment_may_be_forbidden_to_change_the_number_of_replicas() -> None:
    world, asked = World(), []
    world.controller = deciding(asked, 38)
    request = msgspec.structs.replace(moving([1]), allow_replication_factor_change=False)
    ours = ask(world, alter_partition_reassignments, 45, 1, request)
    assert rows(ours) == [("orders", 0, 38)] and not ours.allow_replication_factor_change
    assert isinstance(asked[0], m.ReassignPartitions) and not asked[0].allow_factor_change


def test_a_cancellation_whose_first_answer_was_lost_counts_as_done() -> None:
    world, asked = World(), []
    dying_first(world, deciding(asked, 85))
    assert rows(ask(world, alter_partition_reassignments, 45, 0, moving(None))) == [("orders", 0, 0)]


def test_a_partition_that_is_listed_twice_is_refused() -> None:
    request = AlterPartitionReassignmentsRequest(topics=moving([1]).topics * 2)
    ours = ask(World(), alter_partition_reassignments, 45, 0, request)
    assert ours.error_code == 42 and ours.responses == []


def test_what_the_controller_refuses_as_a_whole_is_told_as_a_whole() -> None:
    world = World()

    def refuse(message: m.Message) -> m.Message:
        raise RefusedError(44, "not now")

    world.controller = refuse
    ours = ask(world, alter_partition_reassignments, 45, 0, moving([1]))
    assert (ours.error_code, ours.error_message) == (44, "not now")


def test_what_moves_is_listed_and_what_rests_is_not() -> None:
    world = World()
    state = partition(ORDERS, 1, leader=2)
    world.image.apply(msgspec.structs.replace(state, replicas=[1, 2, 3], adding=[3], removing=[1]))
    everything = ListPartitionReassignmentsRequest(topics=None)
    named = ListPartitionReassignmentsRequest(
        topics=[
            ListPartitionReassignmentsTopics(name="orders", partition_indexes=[0, 1, 9]),
            ListPartitionReassignmentsTopics(name="nope", partition_indexes=[0]),
        ]
    )
    for request in (everything, named):
        ours = ask(world, list_partition_reassignments, 46, 0, request)
        [topic] = ours.topics
        [row] = topic.partitions
        assert (topic.name, row.partition_index, row.replicas, row.adding_replicas, row.removing_replicas) == (
            "orders",
            1,
            [1, 2, 3],
            [3],
            [1],
        )
    at_rest = ListPartitionReassignmentsRequest(
        topics=[ListPartitionReassignmentsTopics(name="orders", partition_indexes=[0])]
    )
    assert ask(world, list_partition_reassignments, 46, 0, at_rest).topics == []
