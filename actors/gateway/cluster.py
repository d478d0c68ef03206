"""DescribeCluster (60) and DescribeLogDirs (35)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from logeion.wire.apis import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)
from logeion.wire.errors import KafkaError, MismatchedEndpointTypeError, UnsupportedEndpointTypeError

from .. import messages as m
from .asking import Deadline, ask_partition, ask_replica, each, told
from .authorized import CLUSTER_OPERATIONS, NOT_ASKED
from .brokers import endpoints

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection
    from .state import Gateway

BROKERS, CONTROLLERS = 1, 2

# DescribeLogDirs carries no timeout; its clients wait 30 s or more.
TIMEOUT_S = 10.0


async def describe_cluster(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: DescribeClusterRequest
) -> DescribeClusterResponse:
    """Handler of DescribeCluster; only brokers have a port that speaks Kafka (KIP-919)."""
    if request.endpoint_type != BROKERS:
        error: KafkaError
        if request.endpoint_type == CONTROLLERS:
            error = MismatchedEndpointTypeError("this is a broker's port; controllers do not speak Kafka's protocol")
        else:
            error = UnsupportedEndpointTypeError(f"endpoint type {request.endpoint_type} is not known")
        return DescribeClusterResponse(
            error_code=error.code, error_message=told(error), endpoint_type=request.endpoint_type
        )
    fenced = gateway.image.fenced
    brokers = [
        DescribeClusterBroker(
            broker_id=one.node, host=one.host, port=one.port, rack=one.rack, is_fenced=one.node in fenced
        )
        for one in endpoints(gateway, connection.local, fenced=request.include_fenced_brokers)
    ]
    return DescribeClusterResponse(
        cluster_id=gateway.image.cluster_id,
        controller_id=gateway.controller_id,
        brokers=brokers,
        cluster_authorized_operations=(
            CLUSTER_OPERATIONS if request.include_cluster_authorized_operations else NOT_ASKED
        ),
    )


async def describe_log_dirs(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: DescribeLogDirsRequest
) -> DescribeLogDirsResponse:
    """Handler of DescribeLogDirs: this node's one data directory with its replicas (null: all of them).

    Partitions that are not here are left out, as in Kafka; one whose process does not answer is left out too.
    """
    image = gateway.image
    wanted: list[tuple[str, str, int]] = []
    if request.topics is None:
        names = {topic.name: list(topic.partitions) for topic in image.topics.values()}
    else:
        names = {}
        for asked in request.topics:
            names.setdefault(asked.topic, []).extend(asked.partitions)
    for name, partitions in sorted(names.items()):
        topic = image.topic(name)
        if topic is not None:
            wanted += [
                (name, topic.topic_id, partition)
                for partition in sorted(set(partitions) & topic.partitions.keys())
                if gateway.node in topic.partitions[partition].replicas
            ]
    deadline = Deadline(TIMEOUT_S)

    async def describe(which: tuple[str, str, int]) -> m.LogDescribed | None:
        _, topic_id, partition = which
        try:
            if gateway.leader_code(topic_id, partition):
                return await ask_replica(gateway, topic_id, partition, m.DescribeLog(), m.LogDescribed, deadline)
            return await ask_partition(
                gateway, topic_id, partition, lambda _: m.DescribeLog(), m.LogDescribed, deadline
            )
        except KafkaError:
            return None

    figures = await each(wanted, describe)
    topics: dict[str, DescribeLogDirsTopic] = {}
    for (name, _, partition), figure in zip(wanted, figures, strict=True):
        if figure is not None:
            entry = topics.setdefault(name, DescribeLogDirsTopic(name=name, partitions=[]))
            lag = max(0, figure.high_watermark - figure.end)
            entry.partitions.append(
                DescribeLogDirsPartition(partition_index=partition, partition_size=figure.size, offset_lag=lag)
            )
    disk = os.statvfs(gateway.data_dir)
    result = DescribeLogDirsResult(
        log_dir=str(gateway.data_dir),
        topics=list(topics.values()),
        total_bytes=disk.f_blocks * disk.f_frsize,
        usable_bytes=disk.f_bavail * disk.f_frsize,
    )
    return DescribeLogDirsResponse(results=[result])
