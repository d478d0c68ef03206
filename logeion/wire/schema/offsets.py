"""The offsets that consumer groups commit."""

from __future__ import annotations

from typing import Annotated

from ..fields import ZERO_UUID, Bool, Int16, Int32, Int64, Nullable, Since, String, Struct, Until, Uuid


class OffsetCommitRequestPartition(Struct):
    """An element of ``OffsetCommitRequest.topics.partitions``."""

    partition_index: Int32 = 0
    committed_offset: Int64 = 0
    committed_leader_epoch: Annotated[Int32, Since(6)] = -1
    committed_metadata: String | None = ""


class OffsetCommitRequestTopic(Struct):
    """An element of ``OffsetCommitRequest.topics``."""

    name: Annotated[String, Until(9)] = ""
    topic_id: Annotated[Uuid, Since(10)] = ZERO_UUID
    partitions: list[OffsetCommitRequestPartition] = []


class OffsetCommitRequest(Struct):
    """Key 8, versions 2-10, flexible from 8."""

    group_id: String = ""
    generation_id_or_member_epoch: Int32 = -1
    member_id: String = ""
    group_instance_id: Annotated[String | None, Since(7)] = None
    retention_time_ms: Annotated[Int64, Until(4)] = -1
    topics: list[OffsetCommitRequestTopic] = []


class OffsetCommitResponsePartition(Struct):
    """An element of ``OffsetCommitResponse.topics.partitions``."""

    partition_index: Int32 = 0
    error_code: Int16 = 0


class OffsetCommitResponseTopic(Struct):
    """An element of ``OffsetCommitResponse.topics``."""

    name: Annotated[String, Until(9)] = ""
    topic_id: Annotated[Uuid, Since(10)] = ZERO_UUID
    partitions: list[OffsetCommitResponsePartition] = []


class OffsetCommitResponse(Struct):
    """Key 8, versions 2-10, flexible from 8."""

    throttle_time_ms: Annotated[Int32, Since(3)] = 0
    topics: list[OffsetCommitResponseTopic] = []


class OffsetFetchRequestTopic(Struct):
    """An element of ``OffsetFetchRequest.topics``."""

    name: String = ""
    partition_indexes: list[Int32] = []


class OffsetFetchRequestTopics(Struct):
    """An element of ``OffsetFetchRequest.groups.topics``."""

    name: Annotated[String, Until(9)] = ""
    topic_id: Annotated[Uuid, Since(10)] = ZERO_UUID
    partition_indexes: list[Int32] = []


class OffsetFetchRequestGroup(Struct):
    """An element of ``OffsetFetchRequest.groups``."""

    group_id: String = ""
    member_id: Annotated[String | None, Since(9)] = None
    member_epoch: Annotated[Int32, Since(9)] = -1
    topics: list[OffsetFetchRequestTopics] | None = []


class OffsetFetchRequest(Struct):
    """Key 9, versions 1-10, flexible from 6."""

    group_id: Annotated[String, Until(7)] = ""
    topics: Annotated[list[OffsetFetchRequestTopic] | None, Until(7), Nullable(2)] = []
    groups: Annotated[list[OffsetFetchRequestGroup], Since(8)] = []
    require_stable: Annotated[Bool, Since(7)] = False


class OffsetFetchResponsePartition(Struct):
    """An element of ``OffsetFetchResponse.topics.partitions``."""

    partition_index: Int32 = 0
    committed_offset: Int64 = 0
    committed_leader_epoch: Annotated[Int32, Since(5)] = -1
    metadata: String | None = ""
    error_code: Int16 = 0


class OffsetFetchResponseTopic(Struct):
    """An element of ``OffsetFetchResponse.topics``."""

    name: String = ""
    partitions: list[OffsetFetchResponsePartition] = []


class OffsetFetchResponsePartitions(Struct):
    """An element of ``OffsetFetchResponse.groups.topics.partitions``."""

    partition_index: Int32 = 0
    committed_offset: Int64 = 0
    committed_leader_epoch: Int32 = -1
    metadata: String | None = ""
    error_code: Int16 = 0


class OffsetFetchResponseTopics(Struct):
    """An element of ``OffsetFetchResponse.groups.topics``."""

    name: Annotated[String, Until(9)] = ""
    topic_id: Annotated[Uuid, Since(10)] = ZERO_UUID
    partitions: list[OffsetFetchResponsePartitions] = []


class OffsetFetchResponseGroup(Struct):
    """An element of ``OffsetFetchResponse.groups``."""

    group_id: String = ""
    topics: list[OffsetFetchResponseTopics] = []
    error_code: Int16 = 0


class OffsetFetchResponse(Struct):
    """Key 9, versions 1-10, flexible from 6."""

    throttle_time_ms: Annotated[Int32, Since(3)] = 0
    topics: Annotated[list[OffsetFetchResponseTopic], Until(7)] = []
    error_code: Annotated[Int16, Since(2), Until(7)] = 0
    groups: Annotated[list[OffsetFetchResponseGroup], Since(8)] = []


class OffsetDeleteRequestPartition(Struct):
    """An element of ``OffsetDeleteRequest.topics.partitions``."""

    partition_index: Int32 = 0


class OffsetDeleteRequestTopic(Struct):
    """An element of ``OffsetDeleteRequest.topics``."""

    name: String = ""
    partitions: list[OffsetDeleteRequestPartition] = []


class OffsetDeleteRequest(Struct):
    """Key 47, versions 0-0."""

    group_id: String = ""
    topics: list[OffsetDeleteRequestTopic] = []


class OffsetDeleteResponsePartition(Struct):
    """An element of ``OffsetDeleteResponse.topics.partitions``."""

    partition_index: Int32 = 0
    error_code: Int16 = 0


class OffsetDeleteResponseTopic(Struct):
    """An element of ``OffsetDeleteResponse.topics``."""

    name: String = ""
    partitions: list[OffsetDeleteResponsePartition] = []


class OffsetDeleteResponse(Struct):
    """Key 47, versions 0-0."""

    error_code: Int16 = 0
    throttle_time_ms: Int32 = 0
    topics: list[OffsetDeleteResponseTopic] = []
