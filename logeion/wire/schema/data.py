"""Records and offsets: produce, fetch, list and delete them, and the ids of their producers."""

from __future__ import annotations

from typing import Annotated

from ..fields import (
    ZERO_UUID,
    Int8,
    Int16,
    Int32,
    Int64,
    Records,
    RecordsOut,
    Since,
    String,
    Struct,
    Tagged,
    Until,
    Uuid,
)


class PartitionProduceData(Struct):
    """An element of ``ProduceRequest.topic_data.partition_data``."""

    index: Int32 = 0
    records: Records | None = b""


class TopicProduceData(Struct):
    """An element of ``ProduceRequest.topic_data``."""

    name: Annotated[String, Until(12)] = ""
    topic_id: Annotated[Uuid, Since(13)] = ZERO_UUID
    partition_data: list[PartitionProduceData] = []


class ProduceRequest(Struct):
    """Key 0, versions 3-13, flexible from 9."""

    transactional_id: String | None = None
    acks: Int16 = 0
    timeout_ms: Int32 = 0
    topic_data: list[TopicProduceData] = []


class BatchIndexAndErrorMessage(Struct):
    """An element of ``ProduceResponse.responses.partition_responses.record_errors``."""

    batch_index: Int32 = 0
    batch_index_error_message: String | None = None


class LeaderIdAndEpoch(Struct):
    """The value of ``ProduceResponse.responses.partition_responses.current_leader``."""

    leader_id: Int32 = -1
    leader_epoch: Int32 = -1


class PartitionProduceResponse(Struct):
    """An element of ``ProduceResponse.responses.partition_responses``."""

    index: Int32 = 0
    error_code: Int16 = 0
    base_offset: Int64 = 0
    log_append_time_ms: Int64 = -1
    log_start_offset: Annotated[Int64, Since(5)] = -1
    record_errors: Annotated[list[BatchIndexAndErrorMessage], Since(8)] = []
    error_message: Annotated[String | None, Since(8)] = None
    current_leader: Annotated[LeaderIdAndEpoch | None, Since(10), Tagged(0)] = None


class TopicProduceResponse(Struct):
    """An element of ``ProduceResponse.responses``."""

    name: Annotated[String, Until(12)] = ""
    topic_id: Annotated[Uuid, Since(13)] = ZERO_UUID
    partition_responses: list[PartitionProduceResponse] = []


class NodeEndpoint(Struct):
    """An element of ``ProduceResponse.node_endpoints``."""

    node_id: Int32 = 0
    host: String = ""
    port: Int32 = 0
    rack: String | None = None


class ProduceResponse(Struct):
    """Key 0, versions 3-13, flexible from 9."""

    responses: list[TopicProduceResponse] = []
    throttle_time_ms: Int32 = 0
    node_endpoints: Annotated[list[NodeEndpoint], Since(10), Tagged(0)] = []


class ReplicaState(Struct):
    """The value of ``FetchRequest.replica_state``."""

    replica_id: Int32 = -1
    replica_epoch: Int64 = -1


class FetchPartition(Struct):
    """An element of ``FetchRequest.topics.partitions``."""

    partition: Int32 = 0
    current_leader_epoch: Annotated[Int32, Since(9)] = -1
    fetch_offset: Int64 = 0
    last_fetched_epoch: Annotated[Int32, Since(12)] = -1
    log_start_offset: Annotated[Int64, Since(5)] = -1
    partition_max_bytes: Int32 = 0
    replica_directory_id: Annotated[Uuid, Since(17), Tagged(0)] = ZERO_UUID
    high_watermark: Annotated[Int64, Since(18), Tagged(1)] = 9223372036854775807


class FetchTopic(Struct):
    """An element of ``FetchRequest.topics``."""

    topic: Annotated[String, Until(12)] = ""
    topic_id: Annotated[Uuid, Since(13)] = ZERO_UUID
    partitions: list[FetchPartition] = []


class ForgottenTopic(Struct):
    """An element of ``FetchRequest.forgotten_topics_data``."""

    topic: Annotated[String, Until(12)] = ""
    topic_id: Annotated[Uuid, Since(13)] = ZERO_UUID
    partitions: list[Int32] = []


class FetchRequest(Struct):
    """Key 1, versions 4-18, flexible from 12."""

    cluster_id: Annotated[String | None, Since(12), Tagged(0)] = None
    replica_id: Annotated[Int32, Until(14)] = -1
    replica_state: Annotated[ReplicaState | None, Since(15), Tagged(1)] = None
    max_wait_ms: Int32 = 0
    min_bytes: Int32 = 0
    max_bytes: Int32 = 2147483647
    isolation_level: Int8 = 0
    session_id: Annotated[Int32, Since(7)] = 0
    session_epoch: Annotated[Int32, Since(7)] = -1
    topics: list[FetchTopic] = []
    forgotten_topics_data: Annotated[list[ForgottenTopic], Since(7)] = []
    rack_id: Annotated[String, Since(11)] = ""


class EpochEndOffset(Struct):
    """The value of ``FetchResponse.responses.partitions.diverging_epoch``."""

    epoch: Int32 = -1
    end_offset: Int64 = -1


class SnapshotId(Struct):
    """The value of ``FetchResponse.responses.partitions.snapshot_id``."""

    end_offset: Int64 = -1
    epoch: Int32 = -1


class AbortedTransaction(Struct):
    """An element of ``FetchResponse.responses.partitions.aborted_transactions``."""

    producer_id: Int64 = 0
    first_offset: Int64 = 0


class PartitionData(Struct):
    """An element of ``FetchResponse.responses.partitions``."""

    partition_index: Int32 = 0
    error_code: Int16 = 0
    high_watermark: Int64 = 0
    last_stable_offset: Int64 = -1
    log_start_offset: Annotated[Int64, Since(5)] = -1
    diverging_epoch: Annotated[EpochEndOffset | None, Since(12), Tagged(0)] = None
    current_leader: Annotated[LeaderIdAndEpoch | None, Since(12), Tagged(1)] = None
    snapshot_id: Annotated[SnapshotId | None, Since(12), Tagged(2)] = None
    aborted_transactions: list[AbortedTransaction] | None = []
    preferred_read_replica: Annotated[Int32, Since(11)] = -1
    records: RecordsOut | None = b""


class FetchableTopicResponse(Struct):
    """An element of ``FetchResponse.responses``."""

    topic: Annotated[String, Until(12)] = ""
    topic_id: Annotated[Uuid, Since(13)] = ZERO_UUID
    partitions: list[PartitionData] = []


class FetchResponse(Struct):
    """Key 1, versions 4-18, flexible from 12."""

    throttle_time_ms: Int32 = 0
    error_code: Annotated[Int16, Since(7)] = 0
    session_id: Annotated[Int32, Since(7)] = 0
    responses: list[FetchableTopicResponse] = []
    node_endpoints: Annotated[list[NodeEndpoint], Since(16), Tagged(0)] = []


class ListOffsetsPartition(Struct):
    """An element of ``ListOffsetsRequest.topics.partitions``."""

    partition_index: Int32 = 0
    current_leader_epoch: Annotated[Int32, Since(4)] = -1
    timestamp: Int64 = 0


class ListOffsetsTopic(Struct):
    """An element of ``ListOffsetsRequest.topics``."""

    name: String = ""
    partitions: list[ListOffsetsPartition] = []


class ListOffsetsRequest(Struct):
    """Key 2, versions 1-11, flexible from 6."""

    replica_id: Int32 = 0
    isolation_level: Annotated[Int8, Since(2)] = 0
    topics: list[ListOffsetsTopic] = []
    timeout_ms: Annotated[Int32, Since(10)] = 0


class ListOffsetsPartitionResponse(Struct):
    """An element of ``ListOffsetsResponse.topics.partitions``."""

    partition_index: Int32 = 0
    error_code: Int16 = 0
    timestamp: Int64 = -1
    offset: Int64 = -1
    leader_epoch: Annotated[Int32, Since(4)] = -1


class ListOffsetsTopicResponse(Struct):
    """An element of ``ListOffsetsResponse.topics``."""

    name: String = ""
    partitions: list[ListOffsetsPartitionResponse] = []


class ListOffsetsResponse(Struct):
    """Key 2, versions 1-11, flexible from 6."""

    throttle_time_ms: Annotated[Int32, Since(2)] = 0
    topics: list[ListOffsetsTopicResponse] = []


class DeleteRecordsPartition(Struct):
    """An element of ``DeleteRecordsRequest.topics.partitions``."""

    partition_index: Int32 = 0
    offset: Int64 = 0


class DeleteRecordsTopic(Struct):
    """An element of ``DeleteRecordsRequest.topics``."""

    name: String = ""
    partitions: list[DeleteRecordsPartition] = []


class DeleteRecordsRequest(Struct):
    """Key 21, versions 0-2, flexible from 2."""

    topics: list[DeleteRecordsTopic] = []
    timeout_ms: Int32 = 0


class DeleteRecordsPartitionResult(Struct):
    """An element of ``DeleteRecordsResponse.topics.partitions``."""

    partition_index: Int32 = 0
    low_watermark: Int64 = 0
    error_code: Int16 = 0


class DeleteRecordsTopicResult(Struct):
    """An element of ``DeleteRecordsResponse.topics``."""

    name: String = ""
    partitions: list[DeleteRecordsPartitionResult] = []


class DeleteRecordsResponse(Struct):
    """Key 21, versions 0-2, flexible from 2."""

    throttle_time_ms: Int32 = 0
    topics: list[DeleteRecordsTopicResult] = []


class InitProducerIdRequest(Struct):
    """Key 22, versions 0-5, flexible from 2."""

    transactional_id: String | None = ""
    transaction_timeout_ms: Int32 = 0
    producer_id: Annotated[Int64, Since(3)] = -1
    producer_epoch: Annotated[Int16, Since(3)] = -1


class InitProducerIdResponse(Struct):
    """Key 22, versions 0-5, flexible from 2."""

    throttle_time_ms: Int32 = 0
    error_code: Int16 = 0
    producer_id: Int64 = -1
    producer_epoch: Int16 = 0


class OffsetForLeaderPartition(Struct):
    """An element of ``OffsetForLeaderEpochRequest.topics.partitions``."""

    partition: Int32 = 0
    current_leader_epoch: Int32 = -1
    leader_epoch: Int32 = 0


class OffsetForLeaderTopic(Struct):
    """An element of ``OffsetForLeaderEpochRequest.topics``."""

    topic: String = ""
    partitions: list[OffsetForLeaderPartition] = []


class OffsetForLeaderEpochRequest(Struct):
    """Key 23, versions 2-4, flexible from 4."""

    replica_id: Annotated[Int32, Since(3)] = -2
    topics: list[OffsetForLeaderTopic] = []


class OffsetForLeaderPartitionResult(Struct):
    """An element of ``OffsetForLeaderEpochResponse.topics.partitions``."""

    error_code: Int16 = 0
    partition: Int32 = 0
    leader_epoch: Int32 = -1
    end_offset: Int64 = -1


class OffsetForLeaderTopicResult(Struct):
    """An element of ``OffsetForLeaderEpochResponse.topics``."""

    topic: String = ""
    partitions: list[OffsetForLeaderPartitionResult] = []


class OffsetForLeaderEpochResponse(Struct):
    """Key 23, versions 2-4, flexible from 4."""

    throttle_time_ms: Int32 = 0
    topics: list[OffsetForLeaderTopicResult] = []
