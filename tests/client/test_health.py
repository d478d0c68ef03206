"""The verdict on a cluster, from what brokers tell."""

from __future__ import annotations

import msgspec

from logeion.client.health import Health, judge
from logeion.client.operations import ClusterState, NodeState, PartitionState

NODES = tuple(NodeState(node, "h", 9091 + node, None, False) for node in (1, 2, 3))
WHOLE = PartitionState("orders", False, 0, 1, 7, (1, 2, 3), (1, 2, 3), (), ())


def verdict(
    *partitions: PartitionState,
    controller: int | None = 1,
    nodes: tuple[NodeState, ...] = NODES,
    least: int = 2,
    adding: dict[tuple[str, int], int] | None = None,
) -> Health:
    return judge(ClusterState("c", 1, nodes), controller, partitions, {"orders": least}, adding or {})


def test_a_whole_cluster_is_healthy() -> None:
    found = verdict(WHOLE, msgspec.structs.replace(WHOLE, partition=1))
    assert found.healthy and not found.problems
    assert (found.topics, found.partitions, found.controller) == (1, 2, 1)


def test_without_a_controller_nothing_is_well() -> None:
    found = verdict(WHOLE, controller=None)
    assert not found.healthy and "nobody leads" in found.problems[0]


def test_a_fenced_node_is_named_and_one_of_which_nobody_tells_is_not() -> None:
    nodes = (*NODES[:2], msgspec.structs.replace(NODES[2], fenced=True))
    assert verdict(WHOLE, nodes=nodes).fenced == (3,)
    assert not verdict(WHOLE, nodes=nodes).healthy
    assert verdict(WHOLE, nodes=tuple(msgspec.structs.replace(one, fenced=None) for one in NODES)).healthy


def test_a_node_that_does_not_answer_is_named() -> None:
    found = judge(ClusterState("c", 1, NODES), 1, [WHOLE], {}, {}, [2])
    assert not found.healthy and found.problems == ["node 2 does not answer at h:9093"]


def test_the_worst_of_a_partition_is_told_once() -> None:
    short = msgspec.structs.replace(WHOLE, in_sync=(1, 2))
    found = verdict(short)
    assert found.problems == ["orders-0 is under-replicated: in sync are 1,2 of 1,2,3"]
    alone = msgspec.structs.replace(WHOLE, in_sync=(1,))
    assert verdict(alone).problems == ["orders-0 refuses acks=all: in sync are 1 of 1,2,3"]
    assert verdict(alone).under_replicated == (alone,)
    nobody = msgspec.structs.replace(WHOLE, leader=-1, in_sync=())
    assert verdict(nobody).problems == ["orders-0 has no leader"]
    assert verdict(nobody).under_min_isr == (nobody,)


def test_fewer_replicas_than_the_least_in_sync_need_no_more_than_they_are() -> None:
    assert verdict(msgspec.structs.replace(WHOLE, replicas=(1,), in_sync=(1,))).healthy


def test_what_a_reassignment_still_adds_is_not_missed() -> None:
    moving = msgspec.structs.replace(WHOLE, replicas=(1, 2, 3, 4))
    assert not verdict(moving).healthy
    assert verdict(moving, adding={("orders", 0): 1}).healthy
