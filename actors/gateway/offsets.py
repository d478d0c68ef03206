"""ListOffsets (2): what the leader of each partition says of a time, or of one of Kafka's special ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.wire.apis import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from logeion.wire.errors import (
    KafkaError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
    for_code,
)

from ..messages import FindOffset, OffsetFound
from ..partition.machine import check_client_epoch
from .asking import Deadline, ask_partition, each

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from ..metadata import Topic
    from .connection import Connection
    from .state import Gateway

# What a request may take that does not say (before version 10): clients wait 30 s by default.
DEFAULT_MS = 20_000

# The first versions of the special timestamps -3 (KIP-734), -4 (KIP-405), -5 (KIP-1005) and -6 (KIP-1075).
SPECIAL_SINCE = {-1: 1, -2: 1, -3: 7, -4: 8, -5: 9, -6: 11}

# What never moves while another leads, and so needs no certainty of who does.
OLDEST = (-2, -4)
CONFIRM_S = 5.0

# Before version 5 clients do not know OFFSET_NOT_AVAILABLE (KIP-207).
NOT_AVAILABLE_SINCE = 5


async def list_offsets(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: ListOffsetsRequest
) -> ListOffsetsResponse:
    """Handler of ListOffsets. Without transactions the two isolation levels are the same."""
    deadline = Deadline.of_request(request.timeout_ms or DEFAULT_MS)
    version = header.api_version

    async def find(item: tuple[Topic | None, ListOffsetsPartition]) -> ListOffsetsPartitionResponse:
        topic, asked = item
        try:
            found = await _find(gateway, topic, asked, version, deadline)
        except KafkaError as error:
            code = error.code
            if code == OffsetNotAvailableError.code and version < NOT_AVAILABLE_SINCE:
                code = NotLeaderOrFollowerError.code
            return ListOffsetsPartitionResponse(partition_index=asked.partition_index, error_code=code)
        return ListOffsetsPartitionResponse(
            partition_index=asked.partition_index,
            timestamp=found.timestamp,
            offset=found.offset,
            leader_epoch=found.leader_epoch,
        )

    items = [(gateway.image.topic(topic.name), asked) for topic in request.topics for asked in topic.partitions]
    results = iter(await each(items, find))
    return ListOffsetsResponse(
        topics=[
            ListOffsetsTopicResponse(name=topic.name, partitions=[next(results) for _ in topic.partitions])
            for topic in request.topics
        ]
    )


async def _find(
    gateway: Gateway, topic: Topic | None, asked: ListOffsetsPartition, version: int, deadline: Deadline
) -> OffsetFound:
    if topic is None:
        raise UnknownTopicOrPartitionError("there is no such topic")
    timestamp = asked.timestamp
    if timestamp < 0 and version < SPECIAL_SINCE.get(timestamp, 1 << 15):
        raise UnsupportedVersionError(f"timestamp {timestamp} in version {version} of ListOffsets")
    code = gateway.leader_code(topic.topic_id, asked.partition_index)
    if code:
        raise for_code(code)(f"partition {topic.name}-{asked.partition_index}")
    error = check_client_epoch(asked.current_leader_epoch, topic.partitions[asked.partition_index].leader_epoch)
    if error is not None:
        raise error

    if timestamp not in OLDEST and not await gateway.confirming.confirm(min(deadline.left, CONFIRM_S)):
        raise OffsetNotAvailableError("whether this node still leads the partition cannot be found out")

    def message(epoch: int) -> FindOffset:
        return FindOffset(epoch=epoch, timestamp=timestamp)

    return await ask_partition(gateway, topic.topic_id, asked.partition_index, message, OffsetFound, deadline)
