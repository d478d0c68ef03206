"""What the cluster is: versions, brokers, topics with their leaders, log directories."""

from __future__ import annotations

from typing import Annotated

from ..fields import ZERO_UUID, Bool, Int8, Int16, Int32, Int64, Nullable, Since, String, Struct, Tagged, Until, Uuid


class ApiVersionsRequest(Struct):
    """Key 18, versions 0-4, flexible from 3."""

    client_software_name: Annotated[String, Since(3)] = ""
    client_software_version: Annotated[String, Since(3)] = ""


class ApiVersion(Struct):
    """An element of ``ApiVersionsResponse.api_keys``."""

    api_key: Int16 = 0
    min_version: Int16 = 0
    max_version: Int16 = 0


class SupportedFeatureKey(Struct):
    """An element of ``ApiVersionsResponse.supported_features``."""

    name: String = ""
    min_version: Int16 = 0
    max_version: Int16 = 0


class FinalizedFeatureKey(Struct):
    """An element of ``ApiVersionsResponse.finalized_features``."""

    name: String = ""
    max_version_level: Int16 = 0
    min_version_level: Int16 = 0


class ApiVersionsResponse(Struct):
    """Key 18, versions 0-4, flexible from 3."""

    error_code: Int16 = 0
    api_keys: list[ApiVersion] = []
    throttle_time_ms: Annotated[Int32, Since(1)] = 0
    supported_features: Annotated[list[SupportedFeatureKey], Since(3), Tagged(0)] = []
    finalized_features_epoch: Annotated[Int64, Since(3), Tagged(1)] = -1
    finalized_features: Annotated[list[FinalizedFeatureKey], Since(3), Tagged(2)] = []
    zk_migration_ready: Annotated[Bool, Since(3), Tagged(3)] = False


class MetadataRequestTopic(Struct):
    """An element of ``MetadataRequest.topics``."""

    topic_id: Annotated[Uuid, Since(10)] = ZERO_UUID
    name: Annotated[String | None, Nullable(10)] = ""


class MetadataRequest(Struct):
    """Key 3, versions 0-13, flexible from 9."""

    topics: Annotated[list[MetadataRequestTopic] | None, Nullable(1)] = []
    allow_auto_topic_creation: Annotated[Bool, Since(4)] = True
    include_cluster_authorized_operations: Annotated[Bool, Since(8), Until(10)] = False
    include_topic_authorized_operations: Annotated[Bool, Since(8)] = False


class MetadataResponseBroker(Struct):
    """An element of ``MetadataResponse.brokers``."""

    node_id: Int32 = 0
    host: String = ""
    port: Int32 = 0
    rack: Annotated[String | None, Since(1)] = None


class MetadataResponsePartition(Struct):
    """An element of ``MetadataResponse.topics.partitions``."""

    error_code: Int16 = 0
    partition_index: Int32 = 0
    leader_id: Int32 = 0
    leader_epoch: Annotated[Int32, Since(7)] = -1
    replica_nodes: list[Int32] = []
    isr_nodes: list[Int32] = []
    offline_replicas: Annotated[list[Int32], Since(5)] = []


class MetadataResponseTopic(Struct):
    """An element of ``MetadataResponse.topics``."""

    error_code: Int16 = 0
    name: Annotated[String | None, Nullable(12)] = ""
    topic_id: Annotated[Uuid, Since(10)] = ZERO_UUID
    is_internal: Annotated[Bool, Since(1)] = False
    partitions: list[MetadataResponsePartition] = []
    topic_authorized_operations: Annotated[Int32, Since(8)] = -2147483648


class MetadataResponse(Struct):
    """Key 3, versions 0-13, flexible from 9."""

    throttle_time_ms: Annotated[Int32, Since(3)] = 0
    brokers: list[MetadataResponseBroker] = []
    cluster_id: Annotated[String | None, Since(2)] = None
    controller_id: Annotated[Int32, Since(1)] = -1
    topics: list[MetadataResponseTopic] = []
    cluster_authorized_operations: Annotated[Int32, Since(8), Until(10)] = -2147483648
    error_code: Annotated[Int16, Since(13)] = 0


class DescribableLogDirTopic(Struct):
    """An element of ``DescribeLogDirsRequest.topics``."""

    topic: String = ""
    partitions: list[Int32] = []


class DescribeLogDirsRequest(Struct):
    """Key 35, versions 1-5, flexible from 2."""

    topics: list[DescribableLogDirTopic] | None = []


class DescribeLogDirsPartition(Struct):
    """An element of ``DescribeLogDirsResponse.results.topics.partitions``."""

    partition_index: Int32 = 0
    partition_size: Int64 = 0
    offset_lag: Int64 = 0
    is_future_key: Bool = False


class DescribeLogDirsTopic(Struct):
    """An element of ``DescribeLogDirsResponse.results.topics``."""

    name: String = ""
    partitions: list[DescribeLogDirsPartition] = []


class DescribeLogDirsResult(Struct):
    """An element of ``DescribeLogDirsResponse.results``."""

    error_code: Int16 = 0
    log_dir: String = ""
    topics: list[DescribeLogDirsTopic] = []
    total_bytes: Annotated[Int64, Since(4)] = -1
    usable_bytes: Annotated[Int64, Since(4)] = -1
    is_cordoned: Annotated[Bool, Since(5)] = False


class DescribeLogDirsResponse(Struct):
    """Key 35, versions 1-5, flexible from 2."""

    throttle_time_ms: Int32 = 0
    error_code: Annotated[Int16, Since(3)] = 0
    results: list[DescribeLogDirsResult] = []


class DescribeClusterRequest(Struct):
    """Key 60, versions 0-2, flexible from 0."""

    include_cluster_authorized_operations: Bool = False
    endpoint_type: Annotated[Int8, Since(1)] = 1
    include_fenced_brokers: Annotated[Bool, Since(2)] = False


class DescribeClusterBroker(Struct):
    """An element of ``DescribeClusterResponse.brokers``."""

    broker_id: Int32 = 0
    host: String = ""
    port: Int32 = 0
    rack: String | None = None
    is_fenced: Annotated[Bool, Since(2)] = False


class DescribeClusterResponse(Struct):
    """Key 60, versions 0-2, flexible from 0."""

    throttle_time_ms: Int32 = 0
    error_code: Int16 = 0
    error_message: String | None = None
    endpoint_type: Annotated[Int8, Since(1)] = 1
    cluster_id: String = ""
    controller_id: Int32 = -1
    brokers: list[DescribeClusterBroker] = []
    cluster_authorized_operations: Int32 = -2147483648


class TopicRequest(Struct):
    """An element of ``DescribeTopicPartitionsRequest.topics``."""

    name: String = ""


class Cursor(Struct):
    """The value of ``DescribeTopicPartitionsRequest.cursor``."""

    topic_name: String = ""
    partition_index: Int32 = 0


class DescribeTopicPartitionsRequest(Struct):
    """Key 75, versions 0-0, flexible from 0."""

    topics: list[TopicRequest] = []
    response_partition_limit: Int32 = 2000
    cursor: Cursor | None = None


class DescribeTopicPartitionsResponsePartition(Struct):
    """An element of ``DescribeTopicPartitionsResponse.topics.partitions``."""

    error_code: Int16 = 0
    partition_index: Int32 = 0
    leader_id: Int32 = 0
    leader_epoch: Int32 = -1
    replica_nodes: list[Int32] = []
    isr_nodes: list[Int32] = []
    eligible_leader_replicas: list[Int32] | None = None
    last_known_elr: list[Int32] | None = None
    offline_replicas: list[Int32] = []


class DescribeTopicPartitionsResponseTopic(Struct):
    """An element of ``DescribeTopicPartitionsResponse.topics``."""

    error_code: Int16 = 0
    name: String | None = ""
    topic_id: Uuid = ZERO_UUID
    is_internal: Bool = False
    partitions: list[DescribeTopicPartitionsResponsePartition] = []
    topic_authorized_operations: Int32 = -2147483648


class DescribeTopicPartitionsResponse(Struct):
    """Key 75, versions 0-0, flexible from 0."""

    throttle_time_ms: Int32 = 0
    topics: list[DescribeTopicPartitionsResponseTopic] = []
    next_cursor: Cursor | None = None
