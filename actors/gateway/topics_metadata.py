"""Metadata (3) and DescribeTopicPartitions (75): which topics there are, and who leads their partitions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from logeion.wire.apis import (
    ZERO_UUID,
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from logeion.wire.codec import encode_response
from logeion.wire.errors import (
    InvalidRequestError,
    InvalidTopicError,
    KafkaError,
    LeaderNotAvailableError,
    TopicAlreadyExistsError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)

from .. import messages as m
from ..controller.topics import INTERNAL_TOPICS, check_name
from .asking import Deadline, ask_through, check_count, until_applied, until_running
from .authorized import CLUSTER_OPERATIONS, NOT_ASKED, TOPIC_OPERATIONS
from .brokers import alive, endpoints

if TYPE_CHECKING:
    from logeion.wire.buffers import Buffer
    from logeion.wire.codec import RequestHeader

    from ..metadata import Topic
    from .connection import Connection
    from .state import Gateway

# Requests for metadata carry no timeout; their clients wait 30 s or more.
CREATION_S = 10.0

# The first version in which a request may name topics by id: 10 and 11 have the field, but it does not work there.
IDS_SINCE = 12

# Kafka's limit on the partitions of one DescribeTopicPartitions answer (max.request.partition.size.limit).
MOST_PARTITIONS = 2000


def _code_for(name: str) -> int:
    """Why there is no topic of this name."""
    try:
        check_name(name)
    except InvalidTopicError as error:
        return error.code
    return UnknownTopicOrPartitionError.code


def _creatable(name: str) -> bool:
    return name not in INTERNAL_TOPICS and _code_for(name) == UnknownTopicOrPartitionError.code


class Leadership(NamedTuple):
    """One partition as clients are told: leader -1 and an error code while nobody can lead it."""

    error_code: int
    leader: int
    leader_epoch: int
    replicas: list[int]
    isr: list[int]
    offline: list[int]
    elr: list[int]
    last_known: list[int]


def leadership(gateway: Gateway, topic: Topic, index: int) -> Leadership:
    """What the image says of a partition, with what this node knows of its own processes.

    A leader that restarts at the moment still is the leader, because the gateway holds requests for it; only one
    that is offline for good (its log failed, say) is not.
    """
    partition = topic.partitions[index]
    leader, code = partition.leader, 0
    offline = [node for node in partition.replicas if not alive(gateway, node)]
    if leader == gateway.node and gateway.offline(topic.topic_id, index):
        offline.append(gateway.node)
    if leader < 0 or leader in offline:
        leader, code = -1, LeaderNotAvailableError.code
    return Leadership(
        code,
        leader,
        partition.leader_epoch,
        partition.replicas,
        partition.isr,
        offline,
        list(partition.elr),
        list(partition.last_known),
    )


def _described(gateway: Gateway, topic: Topic, operations: int) -> MetadataResponseTopic:
    partitions = []
    for index in sorted(topic.partitions):
        now = leadership(gateway, topic, index)
        partitions.append(
            MetadataResponsePartition(
                error_code=now.error_code,
                partition_index=index,
                leader_id=now.leader,
                leader_epoch=now.leader_epoch,
                replica_nodes=now.replicas,
                isr_nodes=now.isr,
                offline_replicas=now.offline,
            )
        )
    return MetadataResponseTopic(
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.internal,
        partitions=partitions,
        topic_authorized_operations=operations,
    )


def _missing(asked: MetadataRequestTopic, version: int) -> MetadataResponseTopic:
    """The entry of a topic that cannot be described, with the reason's code."""
    by_id = asked.topic_id != ZERO_UUID
    if version >= IDS_SINCE and by_id:
        return MetadataResponseTopic(error_code=UnknownTopicIdError.code, name=None, topic_id=asked.topic_id)
    code = InvalidRequestError.code if by_id or asked.name is None else _code_for(asked.name)
    return MetadataResponseTopic(error_code=code, name=asked.name or "")


async def _create(gateway: Gateway, names: list[str]) -> dict[str, int]:
    """Create these topics as configured; the codes of those that could not be.

    A topic that somebody else has created meanwhile is fine; the wait that follows serves both.
    """
    deadline = Deadline(CREATION_S)
    failed: dict[str, int] = {}
    try:
        check_count(gateway, len(names))
        message = m.CreateTopics(topics=[m.TopicToCreate(name=name) for name in names])
        reply, _ = await ask_through(gateway, message, m.TopicsChanged, deadline)
        await until_applied(gateway, reply.committed, deadline)
    except KafkaError as error:
        # What passes by itself is told by the code that makes every client ask for metadata again.
        return dict.fromkeys(names, LeaderNotAvailableError.code if error.retriable else error.code)
    for result in reply.results:
        if result.code and result.code != TopicAlreadyExistsError.code:
            failed[result.name] = result.code
    topics = [gateway.image.topic(name) for name in names]
    await until_running(gateway, [topic.topic_id for topic in topics if topic], deadline)
    return failed


async def metadata(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: MetadataRequest
) -> list[Buffer]:
    """Handler of Metadata: all topics (null, in version 0 an empty list), none, or those named by name or id."""
    everything = request.topics is None or (header.api_version == 0 and not request.topics)
    asked = {} if everything else {(one.topic_id, one.name): one for one in request.topics or ()}
    failed: dict[str, int] = {}
    if request.allow_auto_topic_creation and gateway.config.topics.auto_create:
        absent = [
            name
            for topic_id, name in asked
            if name is not None and topic_id == ZERO_UUID and gateway.image.topic(name) is None and _creatable(name)
        ]
        if absent:
            failed = await _create(gateway, absent)
    question = (
        header.api_version,
        connection.local,
        everything,
        tuple(asked),
        request.include_cluster_authorized_operations,
        request.include_topic_authorized_operations,
    )
    if not failed:
        known = gateway.answers.find(gateway.changes, question, header.correlation_id)
        if known is not None:
            return known
    operations = TOPIC_OPERATIONS if request.include_topic_authorized_operations else NOT_ASKED
    if everything:
        topics = [_described(gateway, topic, operations) for topic in _by_name(gateway.image.topics.values())]
    else:
        topics = [_answer(gateway, one, header.api_version, operations, failed) for one in asked.values()]
    response = MetadataResponse(
        brokers=[
            MetadataResponseBroker(node_id=one.node, host=one.host, port=one.port, rack=one.rack)
            for one in endpoints(gateway, connection.local)
        ],
        cluster_id=gateway.image.cluster_id,
        controller_id=gateway.controller_id,
        topics=topics,
        cluster_authorized_operations=(
            CLUSTER_OPERATIONS if request.include_cluster_authorized_operations else NOT_ASKED
        ),
    )
    if failed:
        return encode_response(header, response)
    return gateway.answers.keep(gateway.changes, question, header, response)


def _answer(
    gateway: Gateway, asked: MetadataRequestTopic, version: int, operations: int, failed: dict[str, int]
) -> MetadataResponseTopic:
    topic = _find(gateway, asked, version)
    if topic is not None:
        return _described(gateway, topic, operations)
    entry = _missing(asked, version)
    if asked.name in failed:
        entry.error_code = failed[asked.name]
    return entry


def _find(gateway: Gateway, asked: MetadataRequestTopic, version: int) -> Topic | None:
    if asked.topic_id != ZERO_UUID:
        return gateway.image.topic_by_id(asked.topic_id) if version >= IDS_SINCE else None
    return gateway.image.topic(asked.name) if asked.name is not None else None


def _by_name(topics: Iterable[Topic]) -> list[Topic]:
    return sorted(topics, key=lambda topic: topic.name)


async def describe_topic_partitions(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: DescribeTopicPartitionsRequest
) -> DescribeTopicPartitionsResponse:
    """Handler of DescribeTopicPartitions (KIP-966): topics in the order of their names, in pages.

    An empty list means all topics. A page ends after ``response_partition_limit`` partitions, and ``next_cursor``
    says where the next begins; a cursor from the client skips all before it.
    """
    cursor = request.cursor
    if cursor is not None and cursor.partition_index < 0:
        return DescribeTopicPartitionsResponse(
            topics=[DescribeTopicPartitionsResponseTopic(error_code=InvalidRequestError.code, name=cursor.topic_name)]
        )
    every = not request.topics
    names = (
        [topic.name for topic in gateway.image.topics.values()] if every else {topic.name for topic in request.topics}
    )
    room = min(max(request.response_partition_limit, 1), MOST_PARTITIONS)
    response = DescribeTopicPartitionsResponse()
    for name in sorted(names):
        first = 0
        if cursor is not None:
            if name < cursor.topic_name:
                continue
            if name == cursor.topic_name:
                first = cursor.partition_index
        topic = gateway.image.topic(name)
        if topic is None:
            response.topics.append(DescribeTopicPartitionsResponseTopic(error_code=_code_for(name), name=name))
            continue
        if not room:
            response.next_cursor = Cursor(topic_name=name, partition_index=first)
            break
        left = [index for index in sorted(topic.partitions) if index >= first]
        response.topics.append(
            DescribeTopicPartitionsResponseTopic(
                name=name,
                topic_id=topic.topic_id,
                is_internal=topic.internal,
                partitions=[_paged(gateway, topic, index) for index in left[:room]],
                topic_authorized_operations=TOPIC_OPERATIONS,
            )
        )
        if len(left) > room:
            response.next_cursor = Cursor(topic_name=name, partition_index=left[room])
            break
        room -= len(left)
    return response


def _paged(gateway: Gateway, topic: Topic, index: int) -> DescribeTopicPartitionsResponsePartition:
    now = leadership(gateway, topic, index)
    return DescribeTopicPartitionsResponsePartition(
        error_code=now.error_code,
        partition_index=index,
        leader_id=now.leader,
        leader_epoch=now.leader_epoch,
        replica_nodes=now.replicas,
        isr_nodes=now.isr,
        eligible_leader_replicas=now.elr,
        last_known_elr=now.last_known,
        offline_replicas=now.offline,
    )
