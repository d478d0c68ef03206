from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from logeion.actors import messages as m
from logeion.actors.gateway.quorum import (
    add_raft_voter,
    describe_quorum,
    remove_raft_voter,
    unregister_broker,
    update_features,
)
from logeion.actors.lanes import RefusedError
from logeion.actors.metadata import BrokerRegistered
from logeion.wire.apis import (
    AddRaftVoterRequest,
    DescribeQuorumRequest,
    FeatureUpdate,
    QuorumPartition,
    QuorumTopic,
    RemoveRaftVoterRequest,
    UnregisterBrokerRequest,
    UpdateFeaturesRequest,
)
from tests.actors.gateway_world import World

DIRECTORY = "d" * 32


def ask(world: World, handler: Any, key: int, version: int, request: Any) -> Any:
    ours, _ = asyncio.run(world.ask(handler, key, version, request))
    return ours


def voters() -> World:
    world = World()
    for node in (1, 2):
        world.image.apply(
            BrokerRegistered(
                node=node,
                incarnation="i",
                directory_id=DIRECTORY,
                host="h",
                port=9092,
                broker_epoch=node,
                cluster_host="10.0.0.1",
                cluster_port=9645,
            )
        )
    return world


def about(*topics: tuple[str, int]) -> DescribeQuorumRequest:
    return DescribeQuorumRequest(
        topics=[QuorumTopic(topic_name=name, partitions=[QuorumPartition(partition_index=at)]) for name, at in topics]
    )


@pytest.mark.parametrize("version", range(3))
def test_the_quorum_as_its_leader_sees_it(version: int) -> None:
    world = voters()
    world.controller = lambda message: m.QuorumDescribed(
        leader=1,
        term=7,
        committed=90,
        voters=[
            m.VoterState(voter=1, end=91),
            m.VoterState(voter=2, end=90, contact_ms=20),
            m.VoterState(voter=3, end=5),
        ],
        observers=[m.VoterState(voter=4, end=80, contact_ms=500)],
    )
    now = time.time() * 1000
    ours = ask(world, describe_quorum, 55, version, about(("__cluster_metadata", 0), ("orders", 0)))
    assert ours.error_code == 0
    metadata, orders = (topic.partitions[0] for topic in ours.topics)
    assert (metadata.error_code, metadata.leader_id, metadata.leader_epoch, metadata.high_watermark) == (0, 1, 7, 90)
    assert [(one.replica_id, one.log_end_offset) for one in metadata.current_voters] == [(1, 91), (2, 90), (3, 5)]
    assert [(one.replica_id, one.log_end_offset) for one in metadata.observers] == [(4, 80)]
    assert orders.error_code == 3
    if version >= 1:
        heard = [one.last_fetch_timestamp for one in metadata.current_voters]
        assert heard[0] >= heard[1] + 20 >= now - 2_000 and heard[2] == -1
        assert [one.last_caught_up_timestamp > 0 for one in metadata.current_voters] == [True, True, False]
    if version >= 2:
        ids = [one.replica_directory_id for one in metadata.current_voters]
        assert ids == [DIRECTORY, DIRECTORY, "0" * 32]
        listeners = [(node.node_id, one.name, one.host, one.port) for node in ours.nodes for one in node.listeners]
        assert listeners == [(1, "CONTROLLER", "10.0.0.1", 9645), (2, "CONTROLLER", "10.0.0.1", 9645)]


def test_without_a_leader_there_is_nothing_to_describe() -> None:
    world = voters()
    world.controller = refusing(41, "nobody leads")
    assert ask(world, describe_quorum, 55, 2, about(("__cluster_metadata", 0))).error_code == 41


def refusing(code: int, reason: str) -> Callable[[m.Message], m.Message]:
    def controller(message: m.Message) -> m.Message:
        raise RefusedError(code, reason)

    return controller


def recording(asked: list[m.Message]) -> Callable[[m.Message], m.Message]:
    def controller(message: m.Message) -> m.Message:
        asked.append(message)
        return m.Recorded(committed=90)

    return controller


UPDATE = FeatureUpdate(feature="metadata.version", max_version_level=2)


@pytest.mark.parametrize("version", range(3))
def test_feature_levels_are_finalised(version: int) -> None:
    world, asked = World(), []
    world.controller = recording(asked)
    request = UpdateFeaturesRequest(feature_updates=[UPDATE], validate_only=version > 0)
    ours = ask(world, update_features, 57, version, request)
    assert (ours.error_code, ours.error_message) == (0, None)
    assert [(one.feature, one.error_code) for one in ours.results] == ([("metadata.version", 0)] if version < 2 else [])
    change = m.FeatureChange(name="metadata.version", level=2, upgrade=1)
    assert asked == [m.UpdateFeatures(changes=[change], validate_only=version > 0)]
    assert world.applied_waits == [90]


@pytest.mark.parametrize(("version", "downgrade", "kind", "upgrade"), [(0, True, 1, 2), (0, False, 1, 1), (1, 0, 3, 3)])
def test_the_kind_of_a_features_change(version: int, downgrade: bool, kind: int, upgrade: int) -> None:
    world, asked = World(), []
    world.controller = recording(asked)
    update = msgspec.structs.replace(UPDATE, allow_downgrade=bool(downgrade), upgrade_type=kind)
    ask(world, update_features, 57, version, UpdateFeaturesRequest(feature_updates=[update]))
    assert isinstance(asked[0], m.UpdateFeatures) and asked[0].changes[0].upgrade == upgrade


def test_a_features_change_that_is_refused() -> None:
    world = World()
    world.controller = refusing(95, "node 2 does not support level 2")
    ours = ask(world, update_features, 57, 1, UpdateFeaturesRequest(feature_updates=[UPDATE]))
    assert (ours.error_code, ours.error_message) == (95, "node 2 does not support level 2")
    assert ask(world, update_features, 57, 1, UpdateFeaturesRequest(feature_updates=[UPDATE, UPDATE])).error_code == 42
    assert ask(world, update_features, 57, 1, UpdateFeaturesRequest()).error_code == 42


def add(**more: Any) -> AddRaftVoterRequest:
    return AddRaftVoterRequest(cluster_id=None, timeout_ms=5000, voter_id=2, **more)


def test_a_broker_is_unregistered() -> None:
    world, asked = World(), []
    world.controller = recording(asked)
    ours = ask(world, unregister_broker, 64, 0, UnregisterBrokerRequest(broker_id=2))
    assert (ours.error_code, ours.error_message) == (0, None)
    assert asked == [m.UnregisterNode(node=2)] and world.applied_waits == [90]
    world.controller = refusing(102, "node 2 is not registered")
    ours = ask(world, unregister_broker, 64, 0, UnregisterBrokerRequest(broker_id=2))
    assert (ours.error_code, ours.error_message) == (102, "node 2 is not registered")


def test_voters_come_and_go() -> None:
    world, asked = voters(), []
    world.controller = recording(asked)
    for version in (0, 1):
        ours = ask(world, add_raft_voter, 80, version, add(voter_directory_id=DIRECTORY))
        assert (ours.error_code, ours.error_message) == (0, None)
    ours = ask(world, remove_raft_voter, 81, 0, RemoveRaftVoterRequest(cluster_id="the-cluster", voter_id=9))
    assert ours.error_code == 0
    assert asked == [m.ChangeVoters(add=2), m.ChangeVoters(add=2), m.ChangeVoters(remove=9)]


def test_the_voter_of_another_cluster_or_disk_is_refused() -> None:
    world = voters()
    assert ask(world, add_raft_voter, 80, 1, AddRaftVoterRequest(cluster_id="other", voter_id=2)).error_code == 104
    assert ask(world, add_raft_voter, 80, 1, add(voter_directory_id="e" * 32)).error_code == 127
    world.controller = refusing(126, "node 2 is a voter")
    assert ask(world, add_raft_voter, 80, 1, add()).error_code == 126
