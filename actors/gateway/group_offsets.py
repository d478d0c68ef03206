"""OffsetCommit (8), OffsetFetch (9) and OffsetDelete (47)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from logeion.wire.apis import (
    ZERO_UUID,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)
from logeion.wire.errors import (
    GroupIdNotFoundError,
    InvalidCommitOffsetSizeError,
    KafkaError,
    OffsetMetadataTooLargeError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    for_code,
)

from .. import messages as m
from .asking import Deadline, each

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from ..metadata import Topic
    from .connection import Connection
    from .state import Gateway

TIMEOUT_S = 10.0
COMMIT_S = 15.0

# Since these versions topics are named by id (KIP-848), fetches are for several groups (KIP-709), and an error of the
# whole fetch has a place of its own.
IDS_SINCE = 10
GROUPS_SINCE = 8
CODE_SINCE = 2

# All offsets of one request are one record batch, and cross to the Coordinator in one message.
MOST_OFFSETS = 20_000
MOST_BYTES = 8 * 1024 * 1024


def _topic(gateway: Gateway, name: str, topic_id: str, version: int) -> Topic:
    if version >= IDS_SINCE:
        topic = gateway.image.topic_by_id(topic_id)
        if topic is None:
            raise UnknownTopicIdError(f"there is no topic with id {topic_id}")
        return topic
    topic = gateway.image.topic(name)
    if topic is None:
        raise UnknownTopicOrPartitionError(f"there is no topic {name!r}")
    return topic


async def offset_commit(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: OffsetCommitRequest
) -> OffsetCommitResponse:
    """Handler of OffsetCommit: what is acceptable is committed atomically, the rest has its code."""
    version = header.api_version
    limit = gateway.config.groups.offset_metadata_max_bytes
    response = OffsetCommitResponse(topics=[])
    wanted: list[m.OffsetToCommit] = []
    places: list[OffsetCommitResponsePartition] = []
    size = 0
    for asked in request.topics:
        rows = [OffsetCommitResponsePartition(partition_index=one.partition_index) for one in asked.partitions]
        response.topics.append(OffsetCommitResponseTopic(name=asked.name, topic_id=asked.topic_id, partitions=rows))
        try:
            topic = _topic(gateway, asked.name, asked.topic_id, version)
        except KafkaError as error:
            for row in rows:
                row.error_code = error.code
            continue
        for row, one in zip(rows, asked.partitions, strict=True):
            metadata = one.committed_metadata or ""
            if one.partition_index not in topic.partitions:
                row.error_code = UnknownTopicOrPartitionError.code
            elif len(metadata) > limit:
                row.error_code = OffsetMetadataTooLargeError.code
            else:
                places.append(row)
                size += len(metadata) + len(topic.name)
                wanted.append(
                    m.OffsetToCommit(
                        topic=topic.name,
                        partition=one.partition_index,
                        offset=one.committed_offset,
                        leader_epoch=one.committed_leader_epoch,
                        metadata=metadata,
                        topic_id=topic.topic_id,
                    )
                )
    try:
        if len(wanted) > MOST_OFFSETS or size > MOST_BYTES:
            raise InvalidCommitOffsetSizeError(f"{len(wanted)} offsets cannot be committed as one")
        message = m.CommitOffsets(
            group=request.group_id,
            generation=request.generation_id_or_member_epoch,
            member_id=request.member_id,
            instance_id=request.group_instance_id,
            offsets=wanted,
        )
        # Even without anything to commit: a member's commit is as good as its heartbeat, and may be refused.
        answer = await gateway.groups.ask(request.group_id, message, m.OffsetsCommitted, COMMIT_S)
        codes = answer.codes if not answer.code else [answer.code] * len(places)
    except KafkaError as error:
        codes = [error.code] * len(places)
    for row, code in zip(places, codes, strict=True):
        row.error_code = code
    return response


class _Wanted(NamedTuple):
    """The partitions of one topic that a fetch names; its name is empty if the id is not known."""

    name: str
    topic_id: str
    partitions: list[int]


async def offset_fetch(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: OffsetFetchRequest
) -> OffsetFetchResponse:
    """Handler of OffsetFetch: from the group's Coordinator if one runs (or a member asks), else from the index."""
    version = header.api_version
    deadline = Deadline(TIMEOUT_S)
    if version >= GROUPS_SINCE:

        async def fetch(asked: OffsetFetchRequestGroup) -> OffsetFetchResponseGroup:
            return await _fetch(gateway, asked, version, deadline)

        return OffsetFetchResponse(groups=await each(request.groups, fetch))
    topics = None
    if request.topics is not None:
        topics = [_Wanted(one.name, ZERO_UUID, list(one.partition_indexes)) for one in request.topics]
    try:
        message = m.FetchOffsets(group=request.group_id, partitions=_flat(topics))
        found = await _ask(gateway, message, deadline)
    except KafkaError as error:
        return OffsetFetchResponse(
            error_code=error.code,
            topics=[
                OffsetFetchResponseTopic(
                    name=one.name,
                    partitions=[
                        OffsetFetchResponsePartition(
                            partition_index=number,
                            committed_offset=-1,
                            error_code=error.code if version < CODE_SINCE else 0,
                        )
                        for number in one.partitions
                    ],
                )
                for one in topics or []
            ],
        )
    return OffsetFetchResponse(
        topics=[
            OffsetFetchResponseTopic(
                name=name,
                partitions=[
                    OffsetFetchResponsePartition(
                        partition_index=one.partition,
                        committed_offset=one.offset,
                        committed_leader_epoch=one.leader_epoch,
                        metadata=one.metadata,
                    )
                    for one in offsets
                ],
            )
            for name, offsets in _grouped(found).items()
        ]
    )


def _flat(topics: list[_Wanted] | None) -> list[tuple[str, int]] | None:
    if topics is None:
        return None
    return [(one.name, number) for one in topics if one.name for number in one.partitions]


def _grouped(offsets: list[m.OffsetToCommit]) -> dict[str, list[m.OffsetToCommit]]:
    topics: dict[str, list[m.OffsetToCommit]] = {}
    for one in offsets:
        topics.setdefault(one.topic, []).append(one)
    return topics


async def _ask(gateway: Gateway, message: m.FetchOffsets, deadline: Deadline) -> list[m.OffsetToCommit]:
    """Raises ``KafkaError``, the group's own code too."""
    answer = await gateway.groups.positions(message, deadline)
    if answer.code:
        raise for_code(answer.code)(f"the offsets of {message.group}")
    return answer.offsets


async def _fetch(
    gateway: Gateway, asked: OffsetFetchRequestGroup, version: int, deadline: Deadline
) -> OffsetFetchResponseGroup:
    """One group of a fetch; unknown topic ids have their code, topics that are gone are left out of "all"."""
    topics: list[_Wanted] | None = None
    unknown: list[OffsetFetchResponseTopics] = []
    if asked.topics is not None:
        topics = []
        for one in asked.topics:
            try:
                name = _topic(gateway, one.name, one.topic_id, version).name if version >= IDS_SINCE else one.name
            except UnknownTopicIdError as error:
                unknown.append(
                    OffsetFetchResponseTopics(
                        topic_id=one.topic_id,
                        partitions=[
                            OffsetFetchResponsePartitions(
                                partition_index=number, committed_offset=-1, error_code=error.code
                            )
                            for number in one.partition_indexes
                        ],
                    )
                )
                continue
            topics.append(_Wanted(name, one.topic_id, list(one.partition_indexes)))
    message = m.FetchOffsets(
        group=asked.group_id,
        partitions=_flat(topics),
        member_id=asked.member_id,
        member_epoch=asked.member_epoch,
    )
    try:
        found = _grouped(await _ask(gateway, message, deadline))
    except KafkaError as error:
        return OffsetFetchResponseGroup(group_id=asked.group_id, topics=[], error_code=error.code)
    ids = {name: topic.topic_id for name in found if (topic := gateway.image.topic(name)) is not None}
    return OffsetFetchResponseGroup(
        group_id=asked.group_id,
        topics=[
            OffsetFetchResponseTopics(
                name=name,
                topic_id=ids.get(name, ZERO_UUID),
                partitions=[
                    OffsetFetchResponsePartitions(
                        partition_index=one.partition,
                        committed_offset=one.offset,
                        committed_leader_epoch=one.leader_epoch,
                        metadata=one.metadata,
                    )
                    for one in offsets
                ],
            )
            for name, offsets in found.items()
            if version < IDS_SINCE or name in ids
        ]
        + unknown,
    )


async def offset_delete(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: OffsetDeleteRequest
) -> OffsetDeleteResponse:
    """Handler of OffsetDelete (KIP-496): refused for topics the group subscribes to."""
    deadline = Deadline(TIMEOUT_S)
    response = OffsetDeleteResponse(topics=[])
    wanted: list[tuple[str, int]] = []
    places: list[OffsetDeleteResponsePartition] = []
    for asked in request.topics:
        topic = gateway.image.topic(asked.name)
        rows = [OffsetDeleteResponsePartition(partition_index=one.partition_index) for one in asked.partitions]
        response.topics.append(OffsetDeleteResponseTopic(name=asked.name, partitions=rows))
        for row in rows:
            if topic is None or row.partition_index not in topic.partitions:
                row.error_code = UnknownTopicOrPartitionError.code
            else:
                wanted.append((asked.name, row.partition_index))
                places.append(row)
    try:
        described = await gateway.groups.ask_reader(
            request.group_id, m.DescribeGroup(group=request.group_id), m.GroupDescribed, deadline
        )
        if described.code == GroupIdNotFoundError.code:
            raise GroupIdNotFoundError(f"there is no group {request.group_id!r}")
        message = m.DeleteOffsets(group=request.group_id, partitions=wanted)
        answer = await gateway.groups.ask(request.group_id, message, m.OffsetsDeleted, COMMIT_S)
    except KafkaError as error:
        return OffsetDeleteResponse(error_code=error.code)
    if answer.code:
        return OffsetDeleteResponse(error_code=answer.code)
    for row, code in zip(places, answer.codes, strict=True):
        row.error_code = code
    return response
