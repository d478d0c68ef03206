"""What an operator asks of a whole cluster, and changes about it: nodes, replicas, leaders, the metadata quorum.

Works against any Kafka: what an older broker does not tell is None here, or asked in an older way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, cast

import msgspec

from logeion.wire.apis import (
    ZERO_UUID,
    AddRaftVoterRequest,
    AddRaftVoterResponse,
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ApiVersionsRequest,
    ApiVersionsResponse,
    DescribeClusterRequest,
    DescribeClusterResponse,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResponse,
    DescribeQuorumRequest,
    DescribeQuorumResponse,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    ElectLeadersRequest,
    ElectLeadersResponse,
    FeatureUpdate,
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    QuorumPartition,
    QuorumReplica,
    QuorumTopic,
    ReassignablePartition,
    ReassignableTopic,
    RemoveRaftVoterRequest,
    RemoveRaftVoterResponse,
    TopicPartitionsToElect,
    TopicRequest,
    UnregisterBrokerRequest,
    UnregisterBrokerResponse,
    UpdateFeaturesRequest,
    UpdateFeaturesResponse,
)
from logeion.wire.errors import KafkaError, LogeionError, UnsupportedVersionError, for_code
from logeion.wire.fields import Struct

from .cluster import METADATA, Cluster
from .positions import TopicPartition

API_VERSIONS, DESCRIBE_CONFIGS, ELECT_LEADERS = 18, 32, 43
ALTER_REASSIGNMENTS, LIST_REASSIGNMENTS = 45, 46
DESCRIBE_QUORUM, UPDATE_FEATURES, DESCRIBE_CLUSTER, DESCRIBE_TOPIC_PARTITIONS = 55, 57, 60, 75
UNREGISTER_BROKER, ADD_VOTER, REMOVE_VOTER = 64, 80, 81
TOPIC_RESOURCE = 2
MIN_INSYNC = "min.insync.replicas"
# Topics whose configuration is asked for in one request.
TOGETHER = 200

R = TypeVar("R", bound=Struct)


class NodeState(msgspec.Struct, frozen=True):
    """One broker; ``fenced`` is None where nobody tells."""

    node: int
    host: str
    port: int
    rack: str | None
    fenced: bool | None


class ClusterState(msgspec.Struct, frozen=True):
    """The brokers, fenced ones too where they are told, and who takes administrative requests (-1: nobody)."""

    cluster_id: str | None
    controller_id: int
    nodes: tuple[NodeState, ...]


class PartitionState(msgspec.Struct, frozen=True):
    """One partition with all that is told of its replicas; ``leader`` -1 is nobody.

    ``eligible`` may lead although out of sync (KIP-966), None where nobody tells; ``offline`` replicas are on nodes
    that are away or failed.
    """

    topic: str
    internal: bool
    partition: int
    leader: int
    epoch: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]
    eligible: tuple[int, ...] | None
    offline: tuple[int, ...]


class Reassignment(msgspec.Struct, frozen=True):
    """A partition on the move: its replicas until it is done, and which of them come and go."""

    topic: str
    partition: int
    replicas: tuple[int, ...]
    adding: tuple[int, ...]
    removing: tuple[int, ...]


class QuorumMember(msgspec.Struct, frozen=True):
    """One follower of the metadata log; times are milliseconds since 1970, -1 if unknown."""

    node: int
    end: int
    last_fetch_ms: int
    last_caught_up_ms: int


class QuorumState(msgspec.Struct, frozen=True):
    """The metadata quorum as its leader sees it (-1: nobody leads)."""

    leader: int
    epoch: int
    high_watermark: int
    voters: tuple[QuorumMember, ...]
    observers: tuple[QuorumMember, ...]


class Feature(msgspec.Struct, frozen=True):
    """What the answering broker supports of a feature, and its finalised level (0: none)."""

    name: str
    lowest: int
    highest: int
    level: int


class Operations:
    """Each call raises KafkaError as the broker answers it, or a ClientError."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    # Looking

    async def describe(self) -> ClusterState:
        """All brokers that are registered, as far as a broker tells of fenced ones."""
        request = DescribeClusterRequest(include_fenced_brokers=True)

        async def ask() -> ClusterState:
            connection = await self._cluster.any_connection()
            try:
                version = connection.version_of(DESCRIBE_CLUSTER)
            except UnsupportedVersionError:
                return await self._by_metadata()
            answer = cast(DescribeClusterResponse, await self._any(DESCRIBE_CLUSTER, request))
            _raise_for(answer.error_code, answer.error_message)
            nodes = tuple(
                NodeState(one.broker_id, one.host, one.port, one.rack, one.is_fenced if version >= 2 else None)
                for one in sorted(answer.brokers, key=lambda one: one.broker_id)
            )
            return ClusterState(answer.cluster_id, answer.controller_id, nodes)

        return await self._cluster.retrying(ask, what="the list of nodes")

    async def _by_metadata(self) -> ClusterState:
        await self._cluster.refresh(())
        known = self._cluster.metadata
        nodes = tuple(
            NodeState(node, address.host, address.port, known.racks.get(node), None)
            for node, address in sorted(known.brokers.items())
        )
        return ClusterState(known.cluster_id, known.controller_id, nodes)

    async def silent(self, nodes: Iterable[NodeState]) -> list[int]:
        """Those of these nodes that cannot be reached now."""

        async def answers(node: int) -> bool:
            try:
                connection = await self._cluster.connection(node)
                await connection.request(
                    API_VERSIONS,
                    ApiVersionsRequest(client_software_name="logeion", client_software_version="1"),
                    timeout_s=self._cluster.connect_timeout_s,
                )
            except LogeionError:
                return False
            return True

        await self._cluster.refresh(())
        asked = [one.node for one in nodes]
        return [
            node for node, answer in zip(asked, await asyncio.gather(*map(answers, asked)), strict=True) if not answer
        ]

    async def partitions(self, topics: Sequence[str] | None = None) -> list[PartitionState]:
        """The partitions of these topics, or of all of them, in order. Raises UnknownTopicOrPartitionError."""

        async def ask() -> list[PartitionState]:
            try:
                return await self._described(topics)
            except UnsupportedVersionError:
                return await self._from_metadata(topics)

        return await self._cluster.retrying(ask, what="the list of partitions")

    async def _described(self, topics: Sequence[str] | None) -> list[PartitionState]:
        found = []
        request = DescribeTopicPartitionsRequest(topics=[TopicRequest(name=name) for name in sorted(topics or ())])
        while True:
            answer = cast(DescribeTopicPartitionsResponse, await self._any(DESCRIBE_TOPIC_PARTITIONS, request))
            for topic in answer.topics:
                _raise_for(topic.error_code, f"topic {topic.name!r}")
                found += [
                    PartitionState(
                        topic.name or "",
                        topic.is_internal,
                        one.partition_index,
                        one.leader_id,
                        one.leader_epoch,
                        tuple(one.replica_nodes),
                        tuple(one.isr_nodes),
                        tuple(one.eligible_leader_replicas or ()),
                        tuple(one.offline_replicas),
                    )
                    for one in topic.partitions
                ]
            if answer.next_cursor is None:
                return found
            request = msgspec.structs.replace(request, cursor=answer.next_cursor)

    async def _from_metadata(self, topics: Sequence[str] | None) -> list[PartitionState]:
        wanted = None if topics is None else [MetadataRequestTopic(name=name) for name in topics]
        answer = cast(
            MetadataResponse, await self._any(METADATA, MetadataRequest(topics=wanted, allow_auto_topic_creation=False))
        )
        found = []
        for topic in answer.topics:
            _raise_for(topic.error_code, f"topic {topic.name!r}")
            found += [
                PartitionState(
                    topic.name or "",
                    topic.is_internal,
                    one.partition_index,
                    one.leader_id,
                    one.leader_epoch,
                    tuple(one.replica_nodes),
                    tuple(one.isr_nodes),
                    None,
                    tuple(one.offline_replicas),
                )
                for one in topic.partitions
            ]
        return sorted(found, key=lambda one: (one.topic, one.partition))

    async def min_in_sync(self, topics: Iterable[str]) -> dict[str, int]:
        """``min.insync.replicas`` of these topics; one that went meanwhile is left out."""
        names = sorted(set(topics))
        found = {}
        for at in range(0, len(names), TOGETHER):
            request = DescribeConfigsRequest(
                resources=[
                    DescribeConfigsResource(
                        resource_type=TOPIC_RESOURCE, resource_name=name, configuration_keys=[MIN_INSYNC]
                    )
                    for name in names[at : at + TOGETHER]
                ]
            )

            async def ask(request: DescribeConfigsRequest = request) -> DescribeConfigsResponse:
                return cast(DescribeConfigsResponse, await self._any(DESCRIBE_CONFIGS, request))

            answer = await self._cluster.retrying(ask, what="the topics' configuration")
            for result in answer.results:
                for config in result.configs:
                    if config.name == MIN_INSYNC and config.value is not None:
                        found[result.resource_name] = int(config.value)
        return found

    async def quorum(self) -> QuorumState:
        """Raises UnsupportedVersionError where there is none to be asked, and NotControllerError while nobody leads."""
        topic = QuorumTopic(topic_name="__cluster_metadata", partitions=[QuorumPartition(partition_index=0)])
        answer = cast(DescribeQuorumResponse, await self._any(DESCRIBE_QUORUM, DescribeQuorumRequest(topics=[topic])))
        _raise_for(answer.error_code, answer.error_message)
        described = answer.topics[0].partitions[0]
        _raise_for(described.error_code, described.error_message)
        return QuorumState(
            described.leader_id,
            described.leader_epoch,
            described.high_watermark,
            tuple(map(_member, described.current_voters)),
            tuple(map(_member, described.observers)),
        )

    async def features(self) -> list[Feature]:
        """What there is, by name."""
        request = ApiVersionsRequest(client_software_name="logeion", client_software_version="1")

        async def ask() -> ApiVersionsResponse:
            return cast(ApiVersionsResponse, await self._any(API_VERSIONS, request))

        answer = await self._cluster.retrying(ask, what="the cluster's features")
        levels = {one.name: one.max_version_level for one in answer.finalized_features}
        found = [
            Feature(one.name, one.min_version, one.max_version, levels.get(one.name, 0))
            for one in answer.supported_features
        ]
        return sorted(found, key=lambda one: one.name)

    # Changing

    async def elect(
        self, partitions: Iterable[TopicPartition] | None = None, *, unclean: bool = False
    ) -> dict[TopicPartition, KafkaError | None]:
        """Has the preferred replica lead (``unclean``: any live one, records may be lost); None is success.

        Without ``partitions`` it is all that need it.
        """
        wanted = None
        if partitions is not None:
            grouped = _grouped((where, where.partition) for where in partitions)
            wanted = [TopicPartitionsToElect(topic=topic, partitions=numbers) for topic, numbers in grouped.items()]
        request = ElectLeadersRequest(election_type=int(unclean), topic_partitions=wanted, timeout_ms=self._timeout_ms)
        answer = await self._change(ELECT_LEADERS, request, ElectLeadersResponse)
        results = {
            TopicPartition(topic.topic, one.partition_id): _error(one.error_code, one.error_message)
            for topic in answer.replica_election_results
            for one in topic.partition_result
        }
        if not results:
            _raise_for(answer.error_code, None)
        return results

    async def reassign(
        self, replicas: Mapping[TopicPartition, Sequence[int] | None]
    ) -> dict[TopicPartition, KafkaError | None]:
        """Moves partitions to these nodes, the preferred leader first; None cancels a move. Returns when it began."""
        grouped = _grouped(
            (
                where,
                ReassignablePartition(partition_index=where.partition, replicas=None if nodes is None else list(nodes)),
            )
            for where, nodes in replicas.items()
        )
        request = AlterPartitionReassignmentsRequest(
            timeout_ms=self._timeout_ms,
            topics=[ReassignableTopic(name=topic, partitions=partitions) for topic, partitions in grouped.items()],
        )
        answer = await self._change(ALTER_REASSIGNMENTS, request, AlterPartitionReassignmentsResponse)
        _raise_for(answer.error_code, answer.error_message)
        return {
            TopicPartition(topic.name, one.partition_index): _error(one.error_code, one.error_message)
            for topic in answer.responses
            for one in topic.partitions
        }

    async def reassignments(self) -> list[Reassignment]:
        """What is being moved, in order."""
        request = ListPartitionReassignmentsRequest(timeout_ms=self._timeout_ms)
        answer = await self._change(LIST_REASSIGNMENTS, request, ListPartitionReassignmentsResponse)
        _raise_for(answer.error_code, answer.error_message)
        found = [
            Reassignment(
                topic.name,
                one.partition_index,
                tuple(one.replicas),
                tuple(one.adding_replicas),
                tuple(one.removing_replicas),
            )
            for topic in answer.topics
            for one in topic.partitions
        ]
        return sorted(found, key=lambda one: (one.topic, one.partition))

    async def add_voter(self, node: int) -> None:
        """Has this node vote in the metadata quorum. Raises DuplicateVoterError."""
        request = AddRaftVoterRequest(
            cluster_id=None, timeout_ms=self._timeout_ms, voter_id=node, voter_directory_id=ZERO_UUID
        )
        answer = await self._change(ADD_VOTER, request, AddRaftVoterResponse)
        _raise_for(answer.error_code, answer.error_message)

    async def remove_voter(self, node: int) -> None:
        """Takes this node's vote in the metadata quorum away. Raises VoterNotFoundError."""
        directory = ZERO_UUID
        request = RemoveRaftVoterRequest(cluster_id=None, voter_id=node, voter_directory_id=directory)
        answer = await self._change(REMOVE_VOTER, request, RemoveRaftVoterResponse)
        _raise_for(answer.error_code, answer.error_message)

    async def unregister(self, node: int) -> None:
        """Has a node that is gone for good forgotten; its replicas stay missing until they are reassigned.

        Raises BrokerIdNotRegisteredError. A node that still runs registers again.
        """
        request = UnregisterBrokerRequest(broker_id=node)
        answer = await self._change(UNREGISTER_BROKER, request, UnregisterBrokerResponse)
        _raise_for(answer.error_code, answer.error_message)

    async def set_features(self, levels: Mapping[str, int], *, downgrade: bool = False) -> None:
        """Finalises these levels, all or none. Raises InvalidUpdateVersionError, FeatureUpdateFailedError."""
        request = UpdateFeaturesRequest(
            timeout_ms=self._timeout_ms,
            feature_updates=[
                FeatureUpdate(
                    feature=name, max_version_level=level, allow_downgrade=downgrade, upgrade_type=2 if downgrade else 1
                )
                for name, level in levels.items()
            ],
        )
        answer = await self._change(UPDATE_FEATURES, request, UpdateFeaturesResponse)
        for result in answer.results:
            _raise_for(result.error_code, result.error_message)
        _raise_for(answer.error_code, answer.error_message)

    # Asking

    @property
    def _timeout_ms(self) -> int:
        return int(self._cluster.request_timeout_s * 1000)

    async def _any(self, api_key: int, request: Struct) -> Struct:
        return await self._cluster.call(api_key, request)

    async def _change(self, api_key: int, request: Struct, kind: type[R]) -> R:
        """Of the controller, as far as metadata names one that can be reached; any Logeion node passes it on."""

        async def ask() -> R:
            known = self._cluster.metadata
            node = known.controller_id if known.controller_id in known.brokers else None
            timeout_s = self._cluster.request_timeout_s + 1.0
            return cast(R, await self._cluster.call(api_key, request, node=node, timeout_s=timeout_s))

        return await self._cluster.retrying(ask, what="a change of the cluster")


T = TypeVar("T")


def _grouped(entries: Iterable[tuple[TopicPartition, T]]) -> dict[str, list[T]]:
    topics: dict[str, list[T]] = {}
    for where, entry in entries:
        topics.setdefault(where.topic, []).append(entry)
    return topics


def _member(one: QuorumReplica) -> QuorumMember:
    return QuorumMember(one.replica_id, one.log_end_offset, one.last_fetch_timestamp, one.last_caught_up_timestamp)


def _error(code: int, message: str | None) -> KafkaError | None:
    if not code:
        return None
    kind = for_code(code)
    return kind(message or (kind.__doc__ or "").strip())


def _raise_for(code: int, message: str | None) -> None:
    error = _error(code, message)
    if error is not None:
        raise error
