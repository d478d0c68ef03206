from __future__ import annotations

import asyncio
from itertools import count
from typing import Any, cast

import pytest

from logeion.actors import messages as m
from logeion.actors.controller.machine import ControllerMachine
from logeion.actors.controller.topics import Defaults
from logeion.actors.gateway.asking import Deadline, ask_through
from logeion.actors.gateway.topics_admin import create_partitions, create_topics, delete_topics
from logeion.actors.lanes import LaneClosed, RefusedError
from logeion.wire.apis import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    DeleteTopicState,
)
from logeion.wire.errors import RequestTimedOutError
from tests.actors.gateway_world import ORDERS, World


def governed() -> World:
    """A world with the real controller's decisions, on the gateway's own image."""
    world = World()
    ids = count(1)
    machine = ControllerMachine(Defaults(partitions=3), lambda: f"{next(ids):032x}", world.image)
    world.controller = lambda message: machine.handle(message, 0.0).reply  # type: ignore[arg-type]
    return world


def create(world: World, version: int, *topics: CreatableTopic, **more: Any) -> tuple[Any, Any]:
    request = CreateTopicsRequest(topics=list(topics), **more)
    return asyncio.run(world.ask(create_topics, 19, version, request))


@pytest.mark.parametrize("version", range(2, 8))
def test_a_topic_is_created_in_every_version(version: int) -> None:
    world = governed()
    topic = CreatableTopic(
        name="new",
        num_partitions=2,
        replication_factor=1,
        configs=[CreatableTopicConfig(name="retention.ms", value="5")],
    )
    ours, theirs = create(world, version, topic)
    [result] = ours.topics
    assert (result.name, result.error_code, result.error_message) == ("new", 0, None)
    created = world.image.topic("new")
    assert created and len(created.partitions) == 2
    assert world.image.configs_of("topic", "new") == {"retention.ms": "5"}
    if version >= 5:
        assert (result.num_partitions, result.replication_factor) == (2, 1)
        configs = {config.name: (config.value, config.config_source) for config in result.configs}
        assert configs["retention.ms"] == ("5", 1)
        assert configs["cleanup.policy"] == ("delete", 5)
    if version >= 7:
        assert result.topic_id == created.topic_id == theirs.topics[0].topic_id.hex


def test_minus_one_means_the_defaults() -> None:
    ours, _ = create(governed(), 7, CreatableTopic(name="new", num_partitions=-1, replication_factor=-1))
    assert (ours.topics[0].num_partitions, ours.topics[0].replication_factor) == (3, 1)


def test_to_validate_only_creates_nothing() -> None:
    world = governed()
    topics = [CreatableTopic(name=name, num_partitions=1, replication_factor=1) for name in ("new", "orders")]
    ours, _ = create(world, 7, *topics, validate_only=True)
    assert [(topic.name, topic.error_code) for topic in ours.topics] == [("new", 0), ("orders", 36)]
    assert world.image.topic("new") is None


def test_manual_assignments() -> None:
    world = governed()
    assignments = [CreatableReplicaAssignment(partition_index=at, broker_ids=[at + 1]) for at in (0, 1)]
    topic = CreatableTopic(name="new", num_partitions=-1, replication_factor=-1, assignments=assignments)
    ours, _ = create(world, 7, topic)
    assert ours.topics[0].num_partitions == 2
    created = world.image.topic("new")
    assert created and [created.partitions[at].replicas for at in (0, 1)] == [[1], [2]]


@pytest.mark.parametrize("version", [2, 7])
def test_each_topic_is_refused_for_its_own_reason(version: int) -> None:
    twice = CreatableReplicaAssignment(partition_index=0, broker_ids=[1])
    wrong = {
        "orders": CreatableTopic(name="orders", num_partitions=1, replication_factor=1),
        "a b": CreatableTopic(name="a b", num_partitions=1, replication_factor=1),
        "none": CreatableTopic(name="none", num_partitions=0, replication_factor=1),
        "copies": CreatableTopic(name="copies", num_partitions=1, replication_factor=9),
        "contradiction": CreatableTopic(
            name="contradiction", num_partitions=1, replication_factor=1, assignments=[twice]
        ),
        "again": CreatableTopic(name="again", num_partitions=-1, replication_factor=-1, assignments=[twice, twice]),
        "config": CreatableTopic(
            name="config",
            num_partitions=1,
            replication_factor=1,
            configs=[CreatableTopicConfig(name="retention.mss", value="1")],
        ),
        "__consumer_offsets": CreatableTopic(name="__consumer_offsets", num_partitions=1, replication_factor=1),
    }
    ours, _ = create(governed(), version, *wrong.values())
    assert {topic.name: topic.error_code for topic in ours.topics} == {
        "orders": 36,
        "a b": 17,
        "none": 37,
        "copies": 38,
        "contradiction": 42,
        "again": 42,
        "config": 40,
        "__consumer_offsets": 17,
    }
    assert all(topic.error_message for topic in ours.topics)
    assert "retention.ms" in {topic.name: topic.error_message for topic in ours.topics}["config"]


def test_a_topic_that_is_listed_twice_is_refused_and_the_others_are_created() -> None:
    names = ("a", "b", "a")
    ours, _ = create(governed(), 7, *(CreatableTopic(name=n, num_partitions=1, replication_factor=1) for n in names))
    assert [(topic.name, topic.error_code) for topic in ours.topics] == [("a", 42), ("b", 0)]


def test_a_controller_that_does_not_answer_is_a_timeout() -> None:
    world = World()

    def silent(message: m.Message) -> m.Message:
        raise RequestTimedOutError("the controller cannot be reached")

    world.controller = silent
    ours, _ = create(world, 7, CreatableTopic(name="new", num_partitions=1, replication_factor=1))
    assert ours.topics[0].error_code == 7
    ours, _ = asyncio.run(world.ask(delete_topics, 20, 5, DeleteTopicsRequest(topic_names=["orders"])))
    assert ours.responses[0].error_code == 7
    request = CreatePartitionsRequest(topics=[CreatePartitionsTopic(name="orders", count=9, assignments=None)])
    ours, _ = asyncio.run(world.ask(create_partitions, 37, 3, request))
    assert ours.results[0].error_code == 7


@pytest.mark.parametrize("version", range(1, 6))
def test_topics_are_deleted_by_name(version: int) -> None:
    world = governed()
    names = ["orders", "nope", "__consumer_offsets", "twice", "twice"]
    ours, _ = asyncio.run(world.ask(delete_topics, 20, version, DeleteTopicsRequest(topic_names=names)))
    assert {one.name: one.error_code for one in ours.responses} == {
        "orders": 0,
        "nope": 3,
        "__consumer_offsets": 17,
        "twice": 42,
    }
    assert world.image.topic("orders") is None


def test_topics_are_deleted_by_name_or_id_in_version_6() -> None:
    world = governed()
    states = [
        DeleteTopicState(name="nope"),
        DeleteTopicState(topic_id=ORDERS),
        DeleteTopicState(topic_id="e" * 32),
        DeleteTopicState(name="both", topic_id=ORDERS),
        DeleteTopicState(),
    ]
    ours, theirs = asyncio.run(world.ask(delete_topics, 20, 6, DeleteTopicsRequest(topics=states)))
    assert [(one.name, one.topic_id, one.error_code) for one in ours.responses] == [
        ("nope", "0" * 32, 3),
        ("orders", ORDERS, 0),
        (None, "e" * 32, 100),
        ("both", ORDERS, 42),
        (None, "0" * 32, 42),
    ]
    assert theirs.responses[2].name is None
    assert world.image.topic("orders") is None


@pytest.mark.parametrize("version", range(4))
def test_topics_grow(version: int) -> None:
    world = governed()
    request = CreatePartitionsRequest(
        topics=[
            CreatePartitionsTopic(name="orders", count=5, assignments=None),
            CreatePartitionsTopic(name="nope", count=5, assignments=None),
            CreatePartitionsTopic(name="__consumer_offsets", count=5, assignments=None),
            CreatePartitionsTopic(name="twice", count=5, assignments=None),
            CreatePartitionsTopic(name="twice", count=6, assignments=None),
        ]
    )
    ours, _ = asyncio.run(world.ask(create_partitions, 37, version, request))
    assert {one.name: one.error_code for one in ours.results} == {
        "orders": 0,
        "nope": 3,
        "__consumer_offsets": 17,
        "twice": 42,
    }
    orders = world.image.topic("orders")
    assert orders and len(orders.partitions) == 5


def test_topics_do_not_shrink() -> None:
    request = CreatePartitionsRequest(topics=[CreatePartitionsTopic(name="orders", count=2, assignments=None)])
    ours, _ = asyncio.run(governed().ask(create_partitions, 37, 3, request))
    assert ours.results[0].error_code == 37 and "3 partitions" in ours.results[0].error_message


def dying(world: World) -> None:
    """The controller carries the next request out and dies before it answers."""
    working = world.controller

    def dies(message: m.Message) -> m.Message:
        working(message)
        world.controller = working
        raise LaneClosed("gone")

    world.controller = dies


def test_changes_whose_answer_died_with_the_controller_are_found_done() -> None:
    world = governed()
    dying(world)
    topics = [CreatableTopic(name=name, num_partitions=2, replication_factor=1) for name in ("new", "orders")]
    ours, _ = create(world, 7, *topics)
    rows = [(one.name, one.error_code, one.num_partitions) for one in ours.topics]
    assert rows == [("new", 0, 2), ("orders", 36, -1)]
    created = world.image.topic("new")
    assert created and ours.topics[0].topic_id == created.topic_id
    dying(world)
    request = CreatePartitionsRequest(topics=[CreatePartitionsTopic(name="new", count=5, assignments=None)])
    ours, _ = asyncio.run(world.ask(create_partitions, 37, 3, request))
    assert ours.results[0].error_code == 0 and len(created.partitions) == 5
    dying(world)
    ours, _ = asyncio.run(world.ask(delete_topics, 20, 5, DeleteTopicsRequest(topic_names=["new", "nope"])))
    assert [(one.name, one.error_code) for one in ours.responses] == [("new", 0), ("nope", 3)]


def test_one_request_cannot_keep_the_controller_busy_for_long() -> None:
    world = World()
    names = [str(number) for number in range(world.config.limits.partitions + 1)]
    ours, _ = create(world, 7, *(CreatableTopic(name=name, num_partitions=1, replication_factor=1) for name in names))
    assert {one.error_code for one in ours.topics} == {44} and len(ours.topics) == len(names)
    request = CreatePartitionsRequest(
        topics=[CreatePartitionsTopic(name=name, count=2, assignments=None) for name in names]
    )
    ours, _ = asyncio.run(world.ask(create_partitions, 37, 3, request))
    assert {one.error_code for one in ours.results} == {44}
    ours, _ = asyncio.run(world.ask(delete_topics, 20, 5, DeleteTopicsRequest(topic_names=names)))
    assert {one.error_code for one in ours.responses} == {44}
    large = [CreatableTopicConfig(name="x" * 5_000_000, value="")]
    ours, _ = create(world, 7, CreatableTopic(name="a", num_partitions=1, replication_factor=1, configs=large))
    assert ours.topics[0].error_code == 44


def test_a_reason_that_quotes_the_client_fits_into_the_oldest_versions() -> None:
    long = "\x01" * 32_000  # its repr has four times as many characters
    ours, _ = create(governed(), 2, *[CreatableTopic(name=long, num_partitions=1, replication_factor=1)] * 2)
    assert ours.topics[0].error_code == 42 and len(ours.topics[0].error_message) < 1_100
    ours, _ = asyncio.run(governed().ask(delete_topics, 20, 5, DeleteTopicsRequest(topic_names=[long])))
    assert ours.responses[0].error_code == 3
    request = CreatePartitionsRequest(topics=[CreatePartitionsTopic(name=long, count=2, assignments=None)])
    ours, _ = asyncio.run(governed().ask(create_partitions, 37, 0, request))
    assert ours.results[0].error_code == 3
    config = CreatableTopicConfig(name="cleanup.policy", value="delete," * 1_000 + "delete")
    ours, _ = create(governed(), 2, CreatableTopic(name="a", num_partitions=1, replication_factor=1, configs=[config]))
    assert ours.topics[0].error_code == 40


def test_a_creation_is_repeated_while_the_controller_waits_for_nodes_of_a_cluster_that_starts() -> None:
    refusals = [8, 8, 41]

    class Starting:
        async def ask_controller(self, message: m.Message, timeout_s: float) -> m.Message:
            if refusals:
                raise RefusedError(refusals.pop(0), "2 of 3 voters have registered yet")
            return m.TopicsChanged(results=[], committed=7)

    async def asked() -> bool:
        message = m.CreateTopics(topics=[m.TopicToCreate(name="new")])
        reply, again = await ask_through(cast(Any, Starting()), message, m.TopicsChanged, Deadline(5.0))
        assert reply.committed == 7
        return again

    assert asyncio.run(asked()), "the one that went away may have done it"
    refusals[:] = [8, 8]
    assert not asyncio.run(asked())
