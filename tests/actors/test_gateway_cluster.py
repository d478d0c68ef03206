from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from logeion.actors import messages as m
from logeion.actors.config import Config
from logeion.actors.gateway.asking import TOGETHER, each
from logeion.actors.gateway.cluster import describe_cluster, describe_log_dirs
from logeion.actors.gateway.coordinators import find_coordinator
from logeion.actors.gateway.producer_ids import init_producer_id
from logeion.actors.gateway.records_admin import delete_records, offset_for_leader_epoch
from logeion.actors.gateway.state import Gateway
from logeion.actors.lanes import LaneClosed, RefusedError
from logeion.actors.metadata import BrokerChanged, ConfigChanged
from logeion.wire.apis import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
    DescribableLogDirTopic,
    DescribeClusterRequest,
    DescribeLogDirsRequest,
    FindCoordinatorRequest,
    InitProducerIdRequest,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from logeion.wire.errors import RequestTimedOutError
from tests.actors.gateway_world import INTERNAL, ORDERS, RECORDS, World, partition


def ask(world: World, handler: Any, key: int, version: int, request: Any) -> Any:
    ours, _ = asyncio.run(world.ask(handler, key, version, request))
    return ours


@pytest.mark.parametrize("version", range(3))
def test_the_cluster_as_the_client_can_reach_it(version: int) -> None:
    request = DescribeClusterRequest(include_cluster_authorized_operations=True)
    ours = ask(World(), describe_cluster, 60, version, request)
    assert (ours.error_code, ours.cluster_id, ours.controller_id) == (0, "the-cluster", 1)
    brokers = [(one.broker_id, one.host, one.port, one.rack) for one in ours.brokers]
    assert brokers == [(1, "127.0.0.1", 9092, "r1"), (2, "other", 9093, None)]
    assert ours.cluster_authorized_operations == 8096


def test_fenced_brokers_are_told_only_to_those_who_ask() -> None:
    world = World()
    world.image.apply(BrokerChanged(node=2, broker_epoch=2, fenced=True))
    for version, fenced, told in [(0, False, [1]), (2, False, [1]), (2, True, [1, 2])]:
        ours = ask(world, describe_cluster, 60, version, DescribeClusterRequest(include_fenced_brokers=fenced))
        assert [one.broker_id for one in ours.brokers] == told
        assert [one.is_fenced for one in ours.brokers] == [False, True][: len(told)]


def test_the_leader_of_the_quorum_is_the_controller(tmp_path: Path) -> None:
    async def run() -> None:
        gateway = Gateway(node=1, config=Config(), data_dir=tmp_path, loop=asyncio.get_running_loop())
        gateway.apply(0, len(RECORDS), RECORDS, False)
        assert gateway.controller_id == 1, "any node passes requests on"
        gateway.quorum_leader = 2
        assert gateway.controller_id == 2
        gateway.image.apply(BrokerChanged(node=2, broker_epoch=2, fenced=True))
        assert gateway.controller_id == 1, "clients cannot reach the fenced one"
        gateway.close()

    asyncio.run(run())


@pytest.mark.parametrize(("endpoints", "code"), [(2, 114), (7, 115)])
def test_controllers_have_no_port_of_kafkas(endpoints: int, code: int) -> None:
    ours = ask(World(), describe_cluster, 60, 1, DescribeClusterRequest(endpoint_type=endpoints))
    assert ours.error_code == code and ours.error_message


def sizes(topic_id: str, index: int, message: m.Message) -> m.Message:
    assert isinstance(message, m.DescribeLog)
    if topic_id == INTERNAL:
        raise LaneClosed("its process has just died")
    if index == 2:
        raise RefusedError(6, "no leader")
    end = 5 - 3 * index
    return m.LogDescribed(
        size=100 + index, segments=1, log_start=0, high_watermark=5, end=end, synced_end=end, producers=0
    )


@pytest.mark.parametrize("version", range(1, 6))
def test_sizes_of_the_partitions_that_answer(version: int, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.partition = world.replica = sizes
    ours = ask(world, describe_log_dirs, 35, version, DescribeLogDirsRequest(topics=None))
    [result] = ours.results
    assert (result.error_code, result.log_dir) == (0, str(tmp_path))
    [topic] = result.topics
    assert topic.name == "orders"
    rows = [(one.partition_index, one.partition_size, one.offset_lag) for one in topic.partitions]
    assert rows == [(0, 100, 0), (1, 101, 3)], "led here, and followed here with a lag"
    if version >= 4:
        assert 0 < result.usable_bytes <= result.total_bytes


def test_sizes_of_the_partitions_that_are_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.partition = world.replica = sizes
    topics = [DescribableLogDirTopic(topic="orders", partitions=[1, 9]), DescribableLogDirTopic(topic="x")]
    ours = ask(world, describe_log_dirs, 35, 4, DescribeLogDirsRequest(topics=topics))
    [topic] = ours.results[0].topics
    assert [one.partition_index for one in topic.partitions] == [1]


def blocks(world: World) -> list[m.Message]:
    asked: list[m.Message] = []

    def controller(message: m.Message) -> m.Message:
        assert isinstance(message, m.AllocateProducerIds) and message.node == 1
        asked.append(message)
        return m.ProducerIdsAllocated(first=1000 * len(asked), count=2)

    world.controller = controller
    return asked


@pytest.mark.parametrize("version", range(6))
def test_each_producer_gets_an_id_of_its_own_from_blocks(version: int) -> None:
    world = World()
    asked = blocks(world)

    async def three() -> list[Any]:
        request = InitProducerIdRequest(transactional_id=None)
        return await asyncio.gather(*(world.ask(init_producer_id, 22, version, request) for _ in range(3)))

    answers = [ours for ours, _ in asyncio.run(three())]
    assert [(one.error_code, one.producer_id, one.producer_epoch) for one in answers] == [
        (0, 1000, 0),
        (0, 1001, 0),
        (0, 2000, 0),
    ]
    assert len(asked) == 2


@pytest.mark.parametrize(("transactional_id", "code"), [("tx", 35), ("", 42)])
@pytest.mark.parametrize("version", [0, 5])
def test_transactions_are_refused(version: int, transactional_id: str, code: int) -> None:
    ours = ask(World(), init_producer_id, 22, version, InitProducerIdRequest(transactional_id=transactional_id))
    assert (ours.error_code, ours.producer_id, ours.producer_epoch) == (code, -1, -1)


def test_an_id_without_its_epoch_is_refused() -> None:
    request = InitProducerIdRequest(transactional_id=None, producer_id=5)
    assert ask(World(), init_producer_id, 22, 4, request).error_code == 42


def test_a_controller_that_goes_away_is_asked_again() -> None:
    world = World()
    blocks(world)
    working = world.controller

    def gone(message: m.Message) -> m.Message:
        world.controller = working
        raise LaneClosed("gone")

    world.controller = gone
    ours = ask(world, init_producer_id, 22, 4, InitProducerIdRequest(transactional_id=None))
    assert (ours.error_code, ours.producer_id) == (0, 1000)


def test_a_controller_that_stays_away_is_answered_by_what_clients_ask_again_after() -> None:
    world = World()

    def away(message: m.Message) -> m.Message:
        raise RequestTimedOutError("the controller cannot be reached")

    world.controller = away
    ours = ask(world, init_producer_id, 22, 4, InitProducerIdRequest(transactional_id=None))
    assert ours.error_code == 14


@pytest.mark.parametrize("version", range(7))
def test_a_group_is_coordinated_by_the_leader_of_its_offsets_partition(version: int) -> None:
    ours = ask(World(), find_coordinator, 10, version, FindCoordinatorRequest(key="g", coordinator_keys=["g", "h"]))
    if version < 4:
        assert (ours.error_code, ours.node_id, ours.host, ours.port) == (0, 1, "127.0.0.1", 9092)
    else:
        assert [(one.key, one.error_code, one.node_id) for one in ours.coordinators] == [("g", 0, 1), ("h", 0, 1)]


@pytest.mark.parametrize("fenced", [False, True])
def test_a_group_of_another_nodes_partition_is_coordinated_there_unless_that_is_fenced(fenced: bool) -> None:
    world = World()
    world.image.apply(partition(INTERNAL, 0, leader=2))
    world.image.apply(BrokerChanged(node=2, broker_epoch=2, fenced=fenced))
    ours = ask(world, find_coordinator, 10, 4, FindCoordinatorRequest(coordinator_keys=["g"]))
    [one] = ours.coordinators
    assert (one.error_code, one.node_id, one.host) == ((15, -1, "") if fenced else (0, 2, "other"))


@pytest.mark.parametrize(("key_type", "code"), [(1, 35), (7, 42)])
def test_nobody_coordinates_transactions(key_type: int, code: int) -> None:
    request = FindCoordinatorRequest(key="tx", key_type=key_type, coordinator_keys=["tx"])
    assert ask(World(), find_coordinator, 10, 3, request).error_code == code
    assert ask(World(), find_coordinator, 10, 4, request).coordinators[0].error_code == code


def trim(world: World, version: int, topic: str, *partitions: tuple[int, int]) -> Any:
    asked = [DeleteRecordsPartition(partition_index=index, offset=offset) for index, offset in partitions]
    request = DeleteRecordsRequest(topics=[DeleteRecordsTopic(name=topic, partitions=asked)], timeout_ms=1000)
    [result] = ask(world, delete_records, 21, version, request).topics
    assert result.name == topic
    return [(one.partition_index, one.low_watermark, one.error_code) for one in result.partitions]


def trimming(topic_id: str, index: int, message: m.Message) -> m.Message:
    assert isinstance(message, m.TrimLog) and message.epoch == 3
    if message.offset > 100:
        raise RefusedError(1, "beyond the high watermark")
    return m.LogTrimmed(low_watermark=message.offset if message.offset >= 0 else 100)


@pytest.mark.parametrize("version", range(3))
def test_records_are_deleted_partition_by_partition(version: int) -> None:
    world = World()
    world.partition = trimming
    rows = trim(world, version, "orders", (0, 10), (0, -1), (0, 500), (1, 1), (2, 1), (7, 1))
    assert rows == [(0, 10, 0), (0, 100, 0), (0, -1, 1), (1, -1, 6), (2, -1, 5), (7, -1, 3)]
    assert trim(world, version, "nope", (0, 1)) == [(0, -1, 3)]


def test_records_that_are_not_the_clients_to_delete() -> None:
    world = World()
    assert trim(world, 2, "__consumer_offsets", (0, 1)) == [(0, -1, 17)]
    world.image.apply(ConfigChanged(resource="topic", name="orders", key="cleanup.policy", value="compact"))
    assert trim(world, 2, "orders", (0, 1)) == [(0, -1, 44)]


@pytest.mark.parametrize("version", range(2, 5))
def test_where_an_epoch_ended(version: int) -> None:
    world = World()

    def ends(topic_id: str, index: int, message: m.Message) -> m.Message:
        assert topic_id == ORDERS and isinstance(message, m.FindEpochEnd) and message.epoch == 3
        return m.EpochEndFound(leader_epoch=message.asked_epoch, end_offset=42)

    world.partition = ends
    partitions = [
        OffsetForLeaderPartition(partition=index, current_leader_epoch=current, leader_epoch=2)
        for index, current in [(0, -1), (0, 3), (0, 2), (0, 4), (1, -1), (9, -1)]
    ]
    request = OffsetForLeaderEpochRequest(topics=[OffsetForLeaderTopic(topic="orders", partitions=partitions)])
    [topic] = ask(world, offset_for_leader_epoch, 23, version, request).topics
    rows = [(one.partition, one.error_code, one.leader_epoch, one.end_offset) for one in topic.partitions]
    assert rows == [
        (0, 0, 2, 42),
        (0, 0, 2, 42),
        (0, 74, -1, -1),
        (0, 75, -1, -1),
        (1, 6, -1, -1),
        (9, 3, -1, -1),
    ]


def test_many_questions_of_one_request_are_asked_a_few_at_a_time() -> None:
    under_way = most = 0

    async def work(item: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return -item

    assert asyncio.run(each(range(1000), work)) == [-item for item in range(1000)]
    assert most == TOGETHER
