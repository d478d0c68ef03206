from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from logeion.actors import messages as m
from logeion.actors.config import Config, TopicsSection
from logeion.actors.gateway.answers import ENTRIES, Answers
from logeion.actors.gateway.topics_metadata import describe_topic_partitions, metadata
from logeion.actors.metadata import BrokerChanged, TopicCreated
from logeion.wire.apis import (
    Cursor,
    DescribeTopicPartitionsRequest,
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    TopicRequest,
)
from logeion.wire.codec import RequestHeader
from tests.actors.gateway_world import ORDERS, World, partition


def ask(world: World, version: int, request: MetadataRequest) -> tuple[Any, Any]:
    return asyncio.run(world.ask(metadata, 3, version, request))


def named(*names: str, **more: Any) -> MetadataRequest:
    more.setdefault("allow_auto_topic_creation", False)
    return MetadataRequest(topics=[MetadataRequestTopic(name=name) for name in names], **more)


@pytest.mark.parametrize("version", range(14))
def test_all_topics_in_every_version(version: int) -> None:
    ours, theirs = ask(World(), version, MetadataRequest(topics=[] if version == 0 else None))
    assert [(broker.node_id, broker.host, broker.port) for broker in ours.brokers] == [
        (1, "127.0.0.1", 9092),
        (2, "other", 9093),
    ]
    assert [topic.name for topic in ours.topics] == ["__consumer_offsets", "orders"]
    orders = ours.topics[1]
    rows = [(row.error_code, row.partition_index, row.leader_id) for row in orders.partitions]
    assert rows == [(0, 0, 1), (0, 1, 2), (5, 2, -1)]
    assert [row.replica_nodes for row in orders.partitions] == [[1, 2]] * 3
    if version >= 1:
        assert ours.topics[0].is_internal and not orders.is_internal
        assert ours.controller_id == 1
    if version >= 2:
        assert ours.cluster_id == "the-cluster"
    if version >= 7:
        assert orders.partitions[0].leader_epoch == 3
    if version >= 10:
        assert orders.topic_id == ORDERS and theirs.topics[1].topic_id.hex == ORDERS
    assert [topic.name for topic in theirs.topics] == ["__consumer_offsets", "orders"]


@pytest.mark.parametrize("version", [1, 13])
def test_an_empty_list_asks_for_the_brokers_alone(version: int) -> None:
    ours, _ = ask(World(), version, MetadataRequest(topics=[]))
    assert ours.topics == [] and len(ours.brokers) == 2


@pytest.mark.parametrize("version", [0, 1, 9, 13])
def test_names_are_answered_once_each_with_an_error_of_their_own(version: int) -> None:
    ours, _ = ask(World(config=no_creation()), version, named("orders", "nope", "a b", "orders"))
    assert [(topic.name, topic.error_code) for topic in ours.topics] == [("orders", 0), ("nope", 3), ("a b", 17)]


def test_topics_by_id_from_version_12() -> None:
    request = MetadataRequest(
        topics=[MetadataRequestTopic(topic_id=ORDERS, name=None), MetadataRequestTopic(topic_id="e" * 32, name=None)]
    )
    ours, theirs = ask(World(), 12, request)
    assert [(topic.name, topic.topic_id, topic.error_code) for topic in ours.topics] == [
        ("orders", ORDERS, 0),
        (None, "e" * 32, 100),
    ]
    assert theirs.topics[1].name is None
    ours, _ = ask(World(), 11, request)
    assert [topic.error_code for topic in ours.topics] == [42, 42]


@pytest.mark.parametrize("version", [8, 10])
def test_operations_are_told_only_to_those_who_ask(version: int) -> None:
    ours, _ = ask(World(), version, named("orders"))
    assert ours.topics[0].topic_authorized_operations == ours.cluster_authorized_operations == -(2**31)
    ours, _ = ask(
        World(),
        version,
        named("orders", include_cluster_authorized_operations=True, include_topic_authorized_operations=True),
    )
    assert (ours.topics[0].topic_authorized_operations, ours.cluster_authorized_operations) == (3576, 8096)


def test_a_partition_that_is_offline_here_has_no_leader() -> None:
    world = World()
    world.given_up.add((ORDERS, 0))
    ours, _ = ask(world, 13, named("orders"))
    row = ours.topics[0].partitions[0]
    assert (row.error_code, row.leader_id, row.offline_replicas) == (5, -1, [1])


def test_a_fenced_broker_is_not_listed_and_its_replicas_are_offline() -> None:
    world = World()
    world.image.apply(BrokerChanged(node=2, broker_epoch=2, fenced=True))
    ours, _ = ask(world, 13, named("orders"))
    assert [broker.node_id for broker in ours.brokers] == [1]
    rows = [(row.error_code, row.leader_id, row.offline_replicas) for row in ours.topics[0].partitions]
    assert rows == [(0, 1, [2]), (5, -1, [2]), (5, -1, [2])]


def test_who_may_lead_though_not_in_sync_is_told() -> None:
    world = World()
    state = partition(ORDERS, 2, leader=-1)
    world.image.apply(msgspec.structs.replace(state, isr=[], elr=[2], last_known=[1]))
    request = DescribeTopicPartitionsRequest(topics=[TopicRequest(name="orders")])
    ours, _ = asyncio.run(world.ask(describe_topic_partitions, 75, 0, request))
    row = ours.topics[0].partitions[2]
    assert (row.eligible_leader_replicas, row.last_known_elr, row.isr_nodes) == ([2], [1], [])


def no_creation() -> Config:
    return Config(topics=TopicsSection(auto_create=False))


def creating(world: World, asked: list[m.Message], code: int = 0) -> None:
    def controller(message: m.Message) -> m.Message:
        asked.append(message)
        assert isinstance(message, m.CreateTopics) and not message.validate_only and not message.internal
        results = []
        for at, topic in enumerate(message.topics):
            topic_id = f"{at:032x}"
            if not code:
                world.image.apply_all([TopicCreated(topic_id=topic_id, name=topic.name), partition(topic_id, 0)])
            results.append(m.TopicResult(name=topic.name, topic_id=topic_id, code=code))
        return m.TopicsChanged(results=results, committed=77)

    world.controller = controller


@pytest.mark.parametrize("version", [0, 3, 4, 13])
def test_a_topic_is_created_when_it_is_first_named(version: int) -> None:
    world, asked = World(), list[m.Message]()
    creating(world, asked)
    ours, _ = ask(world, version, named("new", "orders", "new", "a b", allow_auto_topic_creation=True))
    assert [(topic.name, topic.error_code, len(topic.partitions)) for topic in ours.topics] == [
        ("new", 0, 1),
        ("orders", 0, 3),
        ("a b", 17, 0),
    ]
    assert len(asked) == 1 and world.applied_waits == [77]


def test_nothing_is_created_where_the_client_or_the_node_does_not_want_it() -> None:
    ours, _ = ask(World(), 13, named("new"))
    assert ours.topics[0].error_code == 3
    ours, _ = ask(World(config=no_creation()), 13, named("new", allow_auto_topic_creation=True))
    assert ours.topics[0].error_code == 3


@pytest.mark.parametrize(("refusal", "answer"), [(36, 3), (44, 44), (-1, -1)])
def test_why_a_topic_was_not_created_is_told(refusal: int, answer: int) -> None:
    world = World()
    creating(world, [], refusal)
    ours, _ = ask(world, 13, named("new", allow_auto_topic_creation=True))
    assert ours.topics[0].error_code == answer


def test_an_answer_is_kept_until_something_changes() -> None:
    world = World()
    first, _ = ask(world, 12, named("orders"))
    assert ask(world, 12, named("orders"))[0] == first
    world.given_up.add((ORDERS, 0))
    offline, _ = ask(world, 12, named("orders"))
    assert offline.topics[0].partitions[0].leader_id == -1
    world.image.apply(partition(ORDERS, 0, epoch=9))
    world.given_up.clear()
    now, _ = ask(world, 12, named("orders"))
    assert (now.topics[0].partitions[0].leader_id, now.topics[0].partitions[0].leader_epoch) == (1, 9)


def test_kept_answers_bear_the_correlation_id_of_their_request() -> None:
    store = Answers()
    header = RequestHeader(api_key=3, api_version=9, correlation_id=1, client_id=None, body_at=0)
    [kept] = store.keep("now", "all?", header, MetadataResponse(cluster_id="c"))
    [again] = store.find("now", "all?", 77) or [b""]
    assert isinstance(kept, bytearray) and isinstance(again, bytearray)
    assert again[4:8] == (77).to_bytes(4, "big") and again[8:] == kept[8:]
    assert store.find("later", "all?", 77) is None and store.find("now", "none?", 77) is None


def test_no_more_answers_are_kept_than_fit() -> None:
    store = Answers()
    header = RequestHeader(api_key=3, api_version=9, correlation_id=1, client_id=None, body_at=0)
    for at in range(ENTRIES + 1):
        store.keep("now", at, header, MetadataResponse())
    assert store.find("now", 0, 1) is None and store.find("now", ENTRIES, 1) is not None


def pages(world: World, version: int, request: DescribeTopicPartitionsRequest) -> list[Any]:
    found = []
    while True:
        ours, _ = asyncio.run(world.ask(describe_topic_partitions, 75, version, request))
        found.append([(one.name, one.error_code, [p.partition_index for p in one.partitions]) for one in ours.topics])
        if ours.next_cursor is None:
            return found
        request = msgspec.structs.replace(request, cursor=ours.next_cursor)


def test_topics_are_described_in_pages() -> None:
    request = DescribeTopicPartitionsRequest(response_partition_limit=2)
    assert pages(World(), 0, request) == [
        [("__consumer_offsets", 0, [0]), ("orders", 0, [0])],
        [("orders", 0, [1, 2])],
    ]


def test_a_page_that_ends_with_a_topic_goes_on_with_the_next() -> None:
    request = DescribeTopicPartitionsRequest(response_partition_limit=1)
    assert pages(World(), 0, request) == [
        [("__consumer_offsets", 0, [0])],
        [("orders", 0, [0])],
        [("orders", 0, [1])],
        [("orders", 0, [2])],
    ]


def test_topics_that_are_not_there_are_described_as_such() -> None:
    request = DescribeTopicPartitionsRequest(topics=[TopicRequest(name=name) for name in ("zz", "orders", "a b")])
    assert pages(World(), 0, request) == [[("a b", 17, []), ("orders", 0, [0, 1, 2]), ("zz", 3, [])]]


def test_a_cursor_that_cannot_be_is_refused() -> None:
    request = DescribeTopicPartitionsRequest(cursor=Cursor(topic_name="orders", partition_index=-1))
    assert pages(World(), 0, request) == [[("orders", 42, [])]]


def test_a_described_partition_tells_what_metadata_tells() -> None:
    ours, theirs = asyncio.run(World().ask(describe_topic_partitions, 75, 0, DescribeTopicPartitionsRequest()))
    topic = ours.topics[1]
    assert (topic.topic_id, topic.topic_authorized_operations) == (ORDERS, 3576)
    row = topic.partitions[0]
    assert (row.leader_id, row.leader_epoch, row.replica_nodes, row.isr_nodes) == (1, 3, [1, 2], [1])
    assert theirs.next_cursor is None
