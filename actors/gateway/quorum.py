"""The metadata quorum: DescribeQuorum (55), UpdateFeatures (57), UnregisterBroker (64) and its voters (80, 81).

Its members do not speak Kafka's protocol; any broker passes these requests on to the one that leads.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from logeion.wire.apis import (
    ZERO_UUID,
    AddRaftVoterRequest,
    AddRaftVoterResponse,
    DescribedQuorumPartition,
    DescribedQuorumTopic,
    DescribeQuorumRequest,
    DescribeQuorumResponse,
    QuorumListener,
    QuorumNode,
    QuorumReplica,
    QuorumTopic,
    RemoveRaftVoterRequest,
    RemoveRaftVoterResponse,
    UnregisterBrokerRequest,
    UnregisterBrokerResponse,
    UpdatableFeatureResult,
    UpdateFeaturesRequest,
    UpdateFeaturesResponse,
)
from logeion.wire.errors import (
    InconsistentClusterIdError,
    InvalidRequestError,
    KafkaError,
    UnknownTopicOrPartitionError,
    VoterNotFoundError,
)

from .. import messages as m
from .asking import Deadline, ask_controller, ask_through, told, until_applied

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection
    from .state import Gateway

METADATA_TOPIC, METADATA_PARTITION = "__cluster_metadata", 0

# Kafka's name of the listener that a voter has for its peers; ours is the cluster port.
LISTENER = "CONTROLLER"

# DescribeQuorum carries no timeout; its clients wait 30 s or more.
TIMEOUT_S = 10.0

# A request may ask for one partition, and only one exists: more of them are a mistake.
ASKED_MAX = 100

# Kafka's kinds of a feature's change.
UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE = 1, 2, 3


async def describe_quorum(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: DescribeQuorumRequest
) -> DescribeQuorumResponse:
    """Handler of DescribeQuorum (KIP-595): one partition exists, that of the metadata log."""
    try:
        if sum(len(topic.partitions) for topic in request.topics) > ASKED_MAX:
            raise InvalidRequestError(f"there is one partition to ask about, {METADATA_TOPIC}-{METADATA_PARTITION}")
        quorum = await ask_controller(gateway, m.DescribeQuorum(), m.QuorumDescribed, Deadline(TIMEOUT_S))
    except KafkaError as error:
        return DescribeQuorumResponse(error_code=error.code, error_message=told(error))
    nodes = [
        QuorumNode(
            node_id=one.voter,
            listeners=[QuorumListener(name=LISTENER, host=broker.cluster_host, port=broker.cluster_port)],
        )
        for one in quorum.voters
        if (broker := gateway.image.brokers.get(one.voter)) is not None
    ]
    return DescribeQuorumResponse(
        error_message=None, topics=[_described(gateway, quorum, topic) for topic in request.topics], nodes=nodes
    )


def _described(gateway: Gateway, quorum: m.QuorumDescribed, topic: QuorumTopic) -> DescribedQuorumTopic:
    described = DescribedQuorumTopic(topic_name=topic.topic_name, partitions=[])
    for asked in topic.partitions:
        entry = DescribedQuorumPartition(partition_index=asked.partition_index, error_message=None)
        described.partitions.append(entry)
        if (topic.topic_name, asked.partition_index) != (METADATA_TOPIC, METADATA_PARTITION):
            entry.error_code = UnknownTopicOrPartitionError.code
            continue
        entry.leader_id, entry.leader_epoch = quorum.leader, quorum.term
        entry.high_watermark = quorum.committed
        now_ms = time.time_ns() // 1_000_000
        entry.current_voters = [_replica(gateway, one, quorum, now_ms) for one in quorum.voters]
        entry.observers = [_replica(gateway, one, quorum, now_ms) for one in quorum.observers]
    return described


def _replica(gateway: Gateway, one: m.VoterState, quorum: m.QuorumDescribed, now_ms: int) -> QuorumReplica:
    broker = gateway.image.brokers.get(one.voter)
    # The leader has nobody to hear from; Kafka shows the time of the question for it.
    heard = now_ms if one.voter == quorum.leader else now_ms - one.contact_ms if one.contact_ms >= 0 else -1
    return QuorumReplica(
        replica_id=one.voter,
        replica_directory_id=broker.directory_id if broker is not None else ZERO_UUID,
        log_end_offset=one.end,
        last_fetch_timestamp=heard,
        last_caught_up_timestamp=heard if one.end >= quorum.committed else -1,
    )


async def unregister_broker(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: UnregisterBrokerRequest
) -> UnregisterBrokerResponse:
    """Handler of UnregisterBroker (KIP-500): a node that is gone for good is forgotten."""
    deadline = Deadline(TIMEOUT_S)
    try:
        reply, _ = await ask_through(gateway, m.UnregisterNode(node=request.broker_id), m.Recorded, deadline)
        await until_applied(gateway, reply.committed, deadline)
    except KafkaError as error:
        return UnregisterBrokerResponse(error_code=error.code, error_message=told(error))
    return UnregisterBrokerResponse(error_message=None)


async def update_features(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: UpdateFeaturesRequest
) -> UpdateFeaturesResponse:
    """Handler of UpdateFeatures (KIP-584): all of the changes or none."""
    deadline = Deadline.of_request(request.timeout_ms)
    changes = [
        m.FeatureChange(
            name=one.feature,
            level=one.max_version_level,
            upgrade=one.upgrade_type if header.api_version else SAFE_DOWNGRADE if one.allow_downgrade else UPGRADE,
        )
        for one in request.feature_updates
    ]
    try:
        if not changes:
            raise InvalidRequestError("no feature is named")
        if len({one.name for one in changes}) < len(changes):
            raise InvalidRequestError("a feature is listed more than once in this request")
        message = m.UpdateFeatures(changes=changes, validate_only=request.validate_only)
        reply, _ = await ask_through(gateway, message, m.Recorded, deadline)  # twice is the same as once
        await until_applied(gateway, reply.committed, deadline)
    except KafkaError as error:
        return UpdateFeaturesResponse(error_code=error.code, error_message=told(error))
    return UpdateFeaturesResponse(
        error_message=None, results=[UpdatableFeatureResult(feature=one.name, error_message=None) for one in changes]
    )


async def add_raft_voter(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: AddRaftVoterRequest
) -> AddRaftVoterResponse:
    """Handler of AddRaftVoter (KIP-853): a node that is registered becomes a voter, at its own cluster address."""
    try:
        _check_voter(gateway, request.cluster_id, request.voter_id, request.voter_directory_id)
        message = m.ChangeVoters(add=request.voter_id)
        await _change_voters(gateway, message, Deadline.of_request(request.timeout_ms))
    except KafkaError as error:
        return AddRaftVoterResponse(error_code=error.code, error_message=told(error))
    return AddRaftVoterResponse(error_message=None)


async def remove_raft_voter(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: RemoveRaftVoterRequest
) -> RemoveRaftVoterResponse:
    """Handler of RemoveRaftVoter (KIP-853)."""
    try:
        _check_voter(gateway, request.cluster_id, request.voter_id, request.voter_directory_id)
        await _change_voters(gateway, m.ChangeVoters(remove=request.voter_id), Deadline(TIMEOUT_S))
    except KafkaError as error:
        return RemoveRaftVoterResponse(error_code=error.code, error_message=told(error))
    return RemoveRaftVoterResponse(error_message=None)


def _check_voter(gateway: Gateway, cluster_id: str | None, voter: int, directory: str) -> None:
    """Raise for another cluster's voter, or one whose disk is not the one that the request means."""
    if cluster_id and cluster_id != gateway.image.cluster_id:
        raise InconsistentClusterIdError(f"this is cluster {gateway.image.cluster_id}, not {cluster_id}")
    broker = gateway.image.brokers.get(voter)
    if broker is not None and directory not in (ZERO_UUID, broker.directory_id):
        raise VoterNotFoundError(f"node {voter} has the directory id {broker.directory_id}, not {directory}")


async def _change_voters(gateway: Gateway, message: m.ChangeVoters, deadline: Deadline) -> None:
    reply, _ = await ask_through(gateway, message, m.Recorded, deadline)
    await until_applied(gateway, reply.committed, deadline)
