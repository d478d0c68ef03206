"""Who leads: elections, reassignments, features, and the metadata quorum."""

from __future__ import annotations

from typing import Annotated

from ..fields import ZERO_UUID, Bool, Int8, Int16, Int32, Int64, Nullable, Since, String, Struct, UInt16, Until, Uuid


class TopicPartitionsToElect(Struct):
    """An element of ``ElectLeadersRequest.topic_partitions``."""

    topic: String = ""
    partitions: list[Int32] = []


class ElectLeadersRequest(Struct):
    """Key 43, versions 0-2, flexible from 2."""

    election_type: Annotated[Int8, Since(1)] = 0
    topic_partitions: list[TopicPartitionsToElect] | None = []
    timeout_ms: Int32 = 60000


class ElectedPartition(Struct):
    """An element of ``ElectLeadersResponse.replica_election_results.partition_result``."""

    partition_id: Int32 = 0
    error_code: Int16 = 0
    error_message: String | None = ""


class ReplicaElectionResult(Struct):
    """An element of ``ElectLeadersResponse.replica_election_results``."""

    topic: String = ""
    partition_result: list[ElectedPartition] = []


class ElectLeadersResponse(Struct):
    """Key 43, versions 0-2, flexible from 2."""

    throttle_time_ms: Int32 = 0
    error_code: Annotated[Int16, Since(1)] = 0
    replica_election_results: list[ReplicaElectionResult] = []


class ReassignablePartition(Struct):
    """An element of ``AlterPartitionReassignmentsRequest.topics.partitions``."""

    partition_index: Int32 = 0
    replicas: list[Int32] | None = None


class ReassignableTopic(Struct):
    """An element of ``AlterPartitionReassignmentsRequest.topics``."""

    name: String = ""
    partitions: list[ReassignablePartition] = []


class AlterPartitionReassignmentsRequest(Struct):
    """Key 45, versions 0-1, flexible from 0."""

    timeout_ms: Int32 = 60000
    allow_replication_factor_change: Annotated[Bool, Since(1)] = True
    topics: list[ReassignableTopic] = []


class ReassignablePartitionResponse(Struct):
    """An element of ``AlterPartitionReassignmentsResponse.responses.partitions``."""

    partition_index: Int32 = 0
    error_code: Int16 = 0
    error_message: String | None = ""


class ReassignableTopicResponse(Struct):
    """An element of ``AlterPartitionReassignmentsResponse.responses``."""

    name: String = ""
    partitions: list[ReassignablePartitionResponse] = []


class AlterPartitionReassignmentsResponse(Struct):
    """Key 45, versions 0-1, flexible from 0."""

    throttle_time_ms: Int32 = 0
    allow_replication_factor_change: Annotated[Bool, Since(1)] = True
    error_code: Int16 = 0
    error_message: String | None = ""
    responses: list[ReassignableTopicResponse] = []


class ListPartitionReassignmentsTopics(Struct):
    """An element of ``ListPartitionReassignmentsRequest.topics``."""

    name: String = ""
    partition_indexes: list[Int32] = []


class ListPartitionReassignmentsRequest(Struct):
    """Key 46, versions 0-0, flexible from 0."""

    timeout_ms: Int32 = 60000
    topics: list[ListPartitionReassignmentsTopics] | None = None


class OngoingPartitionReassignment(Struct):
    """An element of ``ListPartitionReassignmentsResponse.topics.partitions``."""

    partition_index: Int32 = 0
    replicas: list[Int32] = []
    adding_replicas: list[Int32] = []
    removing_replicas: list[Int32] = []


class OngoingTopicReassignment(Struct):
    """An element of ``ListPartitionReassignmentsResponse.topics``."""

    name: String = ""
    partitions: list[OngoingPartitionReassignment] = []


class ListPartitionReassignmentsResponse(Struct):
    """Key 46, versions 0-0, flexible from 0."""

    throttle_time_ms: Int32 = 0
    error_code: Int16 = 0
    error_message: String | None = ""
    topics: list[OngoingTopicReassignment] = []


class QuorumPartition(Struct):
    """An element of ``DescribeQuorumRequest.topics.partitions``."""

    partition_index: Int32 = 0


class QuorumTopic(Struct):
    """An element of ``DescribeQuorumRequest.topics``."""

    topic_name: String = ""
    partitions: list[QuorumPartition] = []


class DescribeQuorumRequest(Struct):
    """Key 55, versions 0-2, flexible from 0."""

    topics: list[QuorumTopic] = []


class QuorumReplica(Struct):
    """An element of ``DescribeQuorumResponse.topics.partitions.current_voters`` and ``.observers``."""

    replica_id: Int32 = 0
    replica_directory_id: Annotated[Uuid, Since(2)] = ZERO_UUID
    log_end_offset: Int64 = 0
    last_fetch_timestamp: Annotated[Int64, Since(1)] = -1
    last_caught_up_timestamp: Annotated[Int64, Since(1)] = -1


class DescribedQuorumPartition(Struct):
    """An element of ``DescribeQuorumResponse.topics.partitions``."""

    partition_index: Int32 = 0
    error_code: Int16 = 0
    error_message: Annotated[String | None, Since(2), Nullable(2)] = ""
    leader_id: Int32 = 0
    leader_epoch: Int32 = 0
    high_watermark: Int64 = 0
    current_voters: list[QuorumReplica] = []
    observers: list[QuorumReplica] = []


class DescribedQuorumTopic(Struct):
    """An element of ``DescribeQuorumResponse.topics``."""

    topic_name: String = ""
    partitions: list[DescribedQuorumPartition] = []


class QuorumListener(Struct):
    """An element of ``DescribeQuorumResponse.nodes.listeners`` and of ``AddRaftVoterRequest.listeners``."""

    name: String = ""
    host: String = ""
    port: UInt16 = 0


class QuorumNode(Struct):
    """An element of ``DescribeQuorumResponse.nodes``."""

    node_id: Int32 = 0
    listeners: list[QuorumListener] = []


class DescribeQuorumResponse(Struct):
    """Key 55, versions 0-2, flexible from 0."""

    error_code: Int16 = 0
    error_message: Annotated[String | None, Since(2), Nullable(2)] = ""
    topics: list[DescribedQuorumTopic] = []
    nodes: Annotated[list[QuorumNode], Since(2)] = []


class FeatureUpdate(Struct):
    """An element of ``UpdateFeaturesRequest.feature_updates``."""

    feature: String = ""
    max_version_level: Int16 = 0
    allow_downgrade: Annotated[Bool, Until(0)] = False
    upgrade_type: Annotated[Int8, Since(1)] = 1


class UpdateFeaturesRequest(Struct):
    """Key 57, versions 0-2, flexible from 0."""

    timeout_ms: Int32 = 60000
    feature_updates: list[FeatureUpdate] = []
    validate_only: Annotated[Bool, Since(1)] = False


class UpdatableFeatureResult(Struct):
    """An element of ``UpdateFeaturesResponse.results``."""

    feature: String = ""
    error_code: Int16 = 0
    error_message: String | None = ""


class UpdateFeaturesResponse(Struct):
    """Key 57, versions 0-2, flexible from 0."""

    throttle_time_ms: Int32 = 0
    error_code: Int16 = 0
    error_message: String | None = ""
    results: Annotated[list[UpdatableFeatureResult], Until(1)] = []


class AddRaftVoterRequest(Struct):
    """Key 80, versions 0-1, flexible from 0."""

    cluster_id: String | None = ""
    timeout_ms: Int32 = 0
    voter_id: Int32 = 0
    voter_directory_id: Uuid = ZERO_UUID
    listeners: list[QuorumListener] = []
    ack_when_committed: Annotated[Bool, Since(1)] = True


class AddRaftVoterResponse(Struct):
    """Key 80, versions 0-1, flexible from 0."""

    throttle_time_ms: Int32 = 0
    error_code: Int16 = 0
    error_message: String | None = ""


class RemoveRaftVoterRequest(Struct):
    """Key 81, versions 0-0, flexible from 0."""

    cluster_id: String | None = ""
    voter_id: Int32 = 0
    voter_directory_id: Uuid = ZERO_UUID


class RemoveRaftVoterResponse(Struct):
    """Key 81, versions 0-0, flexible from 0."""

    throttle_time_ms: Int32 = 0
    error_code: Int16 = 0
    error_message: String | None = ""


class UnregisterBrokerRequest(Struct):
    """Key 64, version 0, flexible from 0."""

    broker_id: Int32 = 0


class UnregisterBrokerResponse(Struct):
    """Key 64, version 0, flexible from 0."""

    throttle_time_ms: Int32 = 0
    error_code: Int16 = 0
    error_message: String | None = ""
