"""ElectLeaders (43), AlterPartitionReassignments (45) and ListPartitionReassignments (46).

The controller decides; the gateway waits until the change is visible here, so that who asks next sees it. What a
request asked for again (its first answer was lost with the controller) finds done already, counts as done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.wire.apis import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ElectedPartition,
    ElectLeadersRequest,
    ElectLeadersResponse,
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
    OngoingPartitionReassignment,
    OngoingTopicReassignment,
    ReassignablePartitionResponse,
    ReassignableTopicResponse,
    ReplicaElectionResult,
)
from logeion.wire.errors import (
    ElectionNotNeededError,
    InvalidRequestError,
    KafkaError,
    NoReassignmentInProgressError,
)

from .. import messages as m
from .asking import Deadline, ask_through, check_partitions, told, until_applied

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection
    from .state import Gateway

PREFERRED, UNCLEAN = 0, 1


async def elect_leaders(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: ElectLeadersRequest
) -> ElectLeadersResponse:
    """Handler of ElectLeaders (KIP-183, KIP-460). Asked for all partitions, it tells of those that needed it."""
    asked: dict[tuple[str, int], None] = {}
    for topic in request.topic_partitions or ():
        asked.update(dict.fromkeys((topic.topic, partition) for partition in topic.partitions))
    everything = request.topic_partitions is None
    deadline = Deadline.of_request(request.timeout_ms)
    try:
        if request.election_type not in (PREFERRED, UNCLEAN):
            raise InvalidRequestError(f"{request.election_type} is no type of election")
        check_partitions(gateway, len(asked))
        partitions = [m.PartitionToElect(topic=name, partition=index) for name, index in asked]
        message = m.ElectLeaders(
            partitions=None if everything else partitions, unclean=request.election_type == UNCLEAN
        )
        results, again = await _decided(gateway, message, deadline)
    except KafkaError as error:
        results = [
            m.PartitionResult(topic=name, partition=index, code=error.code, reason=str(error)) for name, index in asked
        ]
        return ElectLeadersResponse(error_code=error.code, replica_election_results=_elected(results))
    if again:
        results = [_forgiven(one, ElectionNotNeededError.code) for one in results]
    if everything:
        results = [one for one in results if one.code != ElectionNotNeededError.code]
    return ElectLeadersResponse(replica_election_results=_elected(results))


def _elected(results: list[m.PartitionResult]) -> list[ReplicaElectionResult]:
    topics: dict[str, ReplicaElectionResult] = {}
    for one in results:
        entry = topics.setdefault(one.topic, ReplicaElectionResult(topic=one.topic, partition_result=[]))
        entry.partition_result.append(
            ElectedPartition(partition_id=one.partition, error_code=one.code, error_message=told(one.reason))
        )
    return list(topics.values())


async def alter_partition_reassignments(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: AlterPartitionReassignmentsRequest
) -> AlterPartitionReassignmentsResponse:
    """Handler of AlterPartitionReassignments (KIP-455): new replicas for partitions, or null to stay as before."""
    deadline = Deadline.of_request(request.timeout_ms)
    allow = request.allow_replication_factor_change
    wanted = [
        m.PartitionToReassign(topic=topic.name, partition=one.partition_index, replicas=one.replicas)
        for topic in request.topics
        for one in topic.partitions
    ]
    try:
        check_partitions(gateway, len(wanted))
        if len({(one.topic, one.partition) for one in wanted}) < len(wanted):
            raise InvalidRequestError("a partition is listed more than once in this request")
        message = m.ReassignPartitions(partitions=wanted, allow_factor_change=allow)
        results, again = await _decided(gateway, message, deadline)
    except KafkaError as error:
        return AlterPartitionReassignmentsResponse(
            allow_replication_factor_change=allow, error_code=error.code, error_message=told(error)
        )
    responses: dict[str, ReassignableTopicResponse] = {}
    for asked, one in zip(wanted, results, strict=True):
        if again and asked.replicas is None:
            one = _forgiven(one, NoReassignmentInProgressError.code)
        entry = responses.setdefault(asked.topic, ReassignableTopicResponse(name=asked.topic, partitions=[]))
        entry.partitions.append(
            ReassignablePartitionResponse(
                partition_index=asked.partition, error_code=one.code, error_message=told(one.reason)
            )
        )
    return AlterPartitionReassignmentsResponse(
        allow_replication_factor_change=allow, error_message=None, responses=list(responses.values())
    )


async def list_partition_reassignments(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: ListPartitionReassignmentsRequest
) -> ListPartitionReassignmentsResponse:
    """Handler of ListPartitionReassignments: what is being moved; partitions at rest are left out."""
    image = gateway.image
    if request.topics is None:
        asked = {topic.name: list(topic.partitions) for topic in image.topics.values()}
    else:
        asked = {topic.name: topic.partition_indexes for topic in request.topics}
    topics = []
    for name in sorted(asked):
        found = image.topic(name)
        if found is None:
            continue
        partitions = [
            OngoingPartitionReassignment(
                partition_index=index,
                replicas=state.replicas,
                adding_replicas=state.adding,
                removing_replicas=state.removing,
            )
            for index in sorted(set(asked[name]) & found.partitions.keys())
            if (state := found.partitions[index]).adding or state.removing
        ]
        if partitions:
            topics.append(OngoingTopicReassignment(name=name, partitions=partitions))
    return ListPartitionReassignmentsResponse(error_message=None, topics=topics)


async def _decided(gateway: Gateway, message: m.Message, deadline: Deadline) -> tuple[list[m.PartitionResult], bool]:
    reply, again = await ask_through(gateway, message, m.PartitionsDecided, deadline)
    await until_applied(gateway, reply.committed, deadline)
    return reply.results, again


def _forgiven(result: m.PartitionResult, code: int) -> m.PartitionResult:
    """The same, without an error that only says that the first of two equal requests was carried out."""
    if result.code != code:
        return result
    return m.PartitionResult(topic=result.topic, partition=result.partition)
