"""Topics created, deleted and grown."""

from __future__ import annotations

from typing import Annotated

from ..fields import ZERO_UUID, Bool, Int8, Int16, Int32, Nullable, Since, String, Struct, Tagged, Until, Uuid


class CreatableReplicaAssignment(Struct):
    """An element of ``CreateTopicsRequest.topics.assignments``."""

    partition_index: Int32 = 0
    broker_ids: list[Int32] = []


class CreatableTopicConfig(Struct):
    """An element of ``CreateTopicsRequest.topics.configs``."""

    name: String = ""
    value: String | None = ""


class CreatableTopic(Struct):
    """An element of ``CreateTopicsRequest.topics``."""

    name: String = ""
    num_partitions: Int32 = 0
    replication_factor: Int16 = 0
    assignments: list[CreatableReplicaAssignment] = []
    configs: list[CreatableTopicConfig] = []


class CreateTopicsRequest(Struct):
    """Key 19, versions 2-7, flexible from 5."""

    topics: list[CreatableTopic] = []
    timeout_ms: Int32 = 60000
    validate_only: Bool = False


class CreatableTopicConfigs(Struct):
    """An element of ``CreateTopicsResponse.topics.configs``."""

    name: String = ""
    value: String | None = ""
    read_only: Bool = False
    config_source: Int8 = -1
    is_sensitive: Bool = False


class CreatableTopicResult(Struct):
    """An element of ``CreateTopicsResponse.topics``."""

    name: String = ""
    topic_id: Annotated[Uuid, Since(7)] = ZERO_UUID
    error_code: Int16 = 0
    error_message: String | None = ""
    topic_config_error_code: Annotated[Int16, Since(5), Tagged(0)] = 0
    num_partitions: Annotated[Int32, Since(5)] = -1
    replication_factor: Annotated[Int16, Since(5)] = -1
    configs: Annotated[list[CreatableTopicConfigs] | None, Since(5)] = []


class CreateTopicsResponse(Struct):
    """Key 19, versions 2-7, flexible from 5."""

    throttle_time_ms: Int32 = 0
    topics: list[CreatableTopicResult] = []


class DeleteTopicState(Struct):
    """An element of ``DeleteTopicsRequest.topics``."""

    name: String | None = None
    topic_id: Uuid = ZERO_UUID


class DeleteTopicsRequest(Struct):
    """Key 20, versions 1-6, flexible from 4."""

    topics: Annotated[list[DeleteTopicState], Since(6)] = []
    topic_names: Annotated[list[String], Until(5)] = []
    timeout_ms: Int32 = 0


class DeletableTopicResult(Struct):
    """An element of ``DeleteTopicsResponse.responses``."""

    name: Annotated[String | None, Nullable(6)] = ""
    topic_id: Annotated[Uuid, Since(6)] = ZERO_UUID
    error_code: Int16 = 0
    error_message: Annotated[String | None, Since(5)] = None


class DeleteTopicsResponse(Struct):
    """Key 20, versions 1-6, flexible from 4."""

    throttle_time_ms: Int32 = 0
    responses: list[DeletableTopicResult] = []


class CreatePartitionsAssignment(Struct):
    """An element of ``CreatePartitionsRequest.topics.assignments``."""

    broker_ids: list[Int32] = []


class CreatePartitionsTopic(Struct):
    """An element of ``CreatePartitionsRequest.topics``."""

    name: String = ""
    count: Int32 = 0
    assignments: list[CreatePartitionsAssignment] | None = []


class CreatePartitionsRequest(Struct):
    """Key 37, versions 0-3, flexible from 2."""

    topics: list[CreatePartitionsTopic] = []
    timeout_ms: Int32 = 0
    validate_only: Bool = False


class CreatePartitionsTopicResult(Struct):
    """An element of ``CreatePartitionsResponse.results``."""

    name: String = ""
    error_code: Int16 = 0
    error_message: String | None = None


class CreatePartitionsResponse(Struct):
    """Key 37, versions 0-3, flexible from 2."""

    throttle_time_ms: Int32 = 0
    results: list[CreatePartitionsTopicResult] = []
