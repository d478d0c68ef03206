"""DeleteRecords (21) and OffsetForLeaderEpoch (23): one question to each partition named, all at once."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from logeion.log.config import LogConfig
from logeion.wire.apis import (
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderPartitionResult,
    OffsetForLeaderTopicResult,
)
from logeion.wire.errors import (
    FencedLeaderEpochError,
    InvalidTopicError,
    KafkaError,
    PolicyViolationError,
    UnknownLeaderEpochError,
    UnknownTopicOrPartitionError,
    for_code,
)

from .. import messages as m
from .asking import Deadline, ask_partition, each

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from ..metadata import PartitionChanged, Topic
    from .connection import Connection
    from .state import Gateway

# OffsetForLeaderEpoch carries no timeout; its clients wait 30 s.
TIMEOUT_S = 10.0


def _partition(gateway: Gateway, name: str, index: int) -> tuple[Topic, PartitionChanged]:
    """The partition as the image has it, led by this node; raises what Kafka answers otherwise."""
    topic = gateway.image.topic(name)
    partition = topic.partitions.get(index) if topic else None
    if topic is None or partition is None:
        raise UnknownTopicOrPartitionError(f"there is no partition {name}-{index}")
    code = gateway.leader_code(topic.topic_id, index)
    if code:
        raise for_code(code)(f"{name}-{index} is not led by node {gateway.node}")
    return topic, partition


async def delete_records(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: DeleteRecordsRequest
) -> DeleteRecordsResponse:
    """Handler of DeleteRecords: the new log start of each partition once it is on disk; offset -1: all records."""
    deadline = Deadline.of_request(request.timeout_ms)

    async def trim(which: tuple[str, int, int]) -> DeleteRecordsPartitionResult:
        name, index, offset = which
        try:
            topic, _ = _partition(gateway, name, index)
            if topic.internal:
                raise InvalidTopicError(f"{name} is internal: its records are the cluster's own")
            config = LogConfig.from_topic(gateway.image.topic_configs(name))
            if config.compact and not config.delete:
                raise PolicyViolationError(f"{name} is compacted only (cleanup.policy): its records cannot be deleted")
            trimmed = await ask_partition(
                gateway,
                topic.topic_id,
                index,
                lambda epoch: m.TrimLog(epoch=epoch, offset=offset),
                m.LogTrimmed,
                deadline,
            )
        except KafkaError as error:
            return DeleteRecordsPartitionResult(partition_index=index, low_watermark=-1, error_code=error.code)
        return DeleteRecordsPartitionResult(partition_index=index, low_watermark=trimmed.low_watermark)

    asked = [(one.name, part.partition_index, part.offset) for one in request.topics for part in one.partitions]
    results = iter(await each(asked, trim))
    return DeleteRecordsResponse(
        topics=[
            DeleteRecordsTopicResult(name=one.name, partitions=list(islice(results, len(one.partitions))))
            for one in request.topics
        ]
    )


async def offset_for_leader_epoch(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: OffsetForLeaderEpochRequest
) -> OffsetForLeaderEpochResponse:
    """Handler of OffsetForLeaderEpoch (KIP-320): where an epoch ended, so that a consumer notices a truncation."""
    deadline = Deadline(TIMEOUT_S)

    async def end_of(which: tuple[str, OffsetForLeaderPartition]) -> OffsetForLeaderPartitionResult:
        name, asked = which
        try:
            topic, partition = _partition(gateway, name, asked.partition)
            if asked.current_leader_epoch >= 0:
                if asked.current_leader_epoch < partition.leader_epoch:
                    raise FencedLeaderEpochError()
                if asked.current_leader_epoch > partition.leader_epoch:
                    raise UnknownLeaderEpochError()
            found = await ask_partition(
                gateway,
                topic.topic_id,
                asked.partition,
                lambda epoch: m.FindEpochEnd(epoch=epoch, asked_epoch=asked.leader_epoch),
                m.EpochEndFound,
                deadline,
            )
        except KafkaError as error:
            return OffsetForLeaderPartitionResult(error_code=error.code, partition=asked.partition)
        return OffsetForLeaderPartitionResult(
            partition=asked.partition, leader_epoch=found.leader_epoch, end_offset=found.end_offset
        )

    results = iter(await each([(one.topic, asked) for one in request.topics for asked in one.partitions], end_of))
    return OffsetForLeaderEpochResponse(
        topics=[
            OffsetForLeaderTopicResult(topic=one.topic, partitions=list(islice(results, len(one.partitions))))
            for one in request.topics
        ]
    )
