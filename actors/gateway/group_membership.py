"""JoinGroup (11), Heartbeat (12), LeaveGroup (13), SyncGroup (14) and ConsumerGroupHeartbeat (68).

A request for a group goes to its Coordinator as it is; here are only the versions' differences and what would not fit
into one record of the group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.wire.apis import (
    ConsumerGroupHeartbeatAssignment,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    ConsumerGroupHeartbeatTopicPartitions,
    HeartbeatRequest,
    HeartbeatResponse,
    JoinGroupRequest,
    JoinGroupResponse,
    JoinGroupResponseMember,
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberResponse,
    SyncGroupRequest,
    SyncGroupResponse,
)
from logeion.wire.errors import (
    CoordinatorLoadInProgressError,
    InvalidGroupIdError,
    InvalidRequestError,
    KafkaError,
    UnknownServerError,
)

from .. import messages as m

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection
    from .state import Gateway

# What one member may bring (its metadata, or the leader's assignments for all) before it could not be stored: the code
# is Kafka's when a group's record is too large.
MOST_BYTES = 2 * 1024 * 1024

# The first versions with which a member must ask for its id first (KIP-394), and may be told to skip the assignment
# (KIP-814).
MEMBER_ID_SINCE, SKIP_SINCE = 4, 9
SEVERAL_LEAVE_SINCE = 3

# Added to what a group may rightly take, so that its own answer comes first.
SLACK_S = 15.0
ANSWER_S = 15.0
# A leader has its rebalance timeout to bring assignments; what it is, is the Coordinator's business.
SYNC_S = 3600.0


def host_of(connection: Connection) -> str:
    """The client's address as Kafka shows it."""
    return f"/{connection.peer[0].removeprefix('::ffff:')}"


def _check_group(group: str) -> None:
    if not group:
        raise InvalidGroupIdError("a group's id is empty")


def _check_size(size: int, what: str) -> None:
    if size > MOST_BYTES:
        raise UnknownServerError(f"{what} of {size} bytes cannot be stored, {MOST_BYTES} are allowed")


async def join_group(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: JoinGroupRequest
) -> JoinGroupResponse:
    """Handler of JoinGroup: answered when the next generation is complete."""
    version = header.api_version
    rebalance_ms = request.rebalance_timeout_ms if version >= 1 else request.session_timeout_ms
    message = m.JoinGroup(
        group=request.group_id,
        member_id=request.member_id,
        instance_id=request.group_instance_id,
        client_id=header.client_id or "",
        client_host=host_of(connection),
        protocol_type=request.protocol_type,
        protocols=[m.GroupProtocol(name=one.name, metadata=bytes(one.metadata)) for one in request.protocols],
        session_timeout_ms=request.session_timeout_ms,
        rebalance_timeout_ms=rebalance_ms,
        require_member_id=version >= MEMBER_ID_SINCE and request.group_instance_id is None,
        can_skip_assignment=version >= SKIP_SINCE,
    )
    timeout_s = max(rebalance_ms, request.session_timeout_ms, 0) / 1000 + SLACK_S
    try:
        _check_group(request.group_id)
        _check_size(sum(len(one.metadata) for one in request.protocols), "a member's metadata")
        joined = await gateway.groups.ask(request.group_id, message, m.GroupJoined, timeout_s)
    except KafkaError as error:
        joined = m.GroupJoined(code=error.code, member_id=request.member_id)
    return JoinGroupResponse(
        error_code=joined.code,
        generation_id=joined.generation,
        protocol_type=joined.protocol_type,
        protocol_name=joined.protocol if joined.protocol is not None or version >= 7 else "",
        leader=joined.leader,
        skip_assignment=joined.skip_assignment,
        member_id=joined.member_id,
        members=[
            JoinGroupResponseMember(member_id=one.member_id, group_instance_id=one.instance_id, metadata=one.metadata)
            for one in joined.members
        ],
    )


async def sync_group(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: SyncGroupRequest
) -> SyncGroupResponse:
    """Handler of SyncGroup: answered when the leader has brought the assignments."""
    message = m.SyncGroup(
        group=request.group_id,
        generation=request.generation_id,
        member_id=request.member_id,
        instance_id=request.group_instance_id,
        protocol_type=request.protocol_type,
        protocol=request.protocol_name,
        assignments={one.member_id: bytes(one.assignment) for one in request.assignments},
    )
    try:
        _check_group(request.group_id)
        _check_size(sum(len(one.assignment) for one in request.assignments), "assignments")
        synced = await gateway.groups.ask(request.group_id, message, m.GroupSynced, SYNC_S)
    except KafkaError as error:
        synced = m.GroupSynced(code=error.code)
    return SyncGroupResponse(
        error_code=synced.code,
        protocol_type=synced.protocol_type,
        protocol_name=synced.protocol,
        assignment=synced.assignment,
    )


async def heartbeat(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: HeartbeatRequest
) -> HeartbeatResponse:
    """Handler of Heartbeat.

    Of a group whose coordinator still loads nobody knows anything bad yet, and clients do not expect to be told (some
    take it for a fault): its members learn by their next heartbeat, as in Kafka.
    """
    message = m.HeartbeatGroup(
        group=request.group_id,
        generation=request.generation_id,
        member_id=request.member_id,
        instance_id=request.group_instance_id,
    )
    try:
        _check_group(request.group_id)
        answer = await gateway.groups.ask(request.group_id, message, m.GroupAnswered, ANSWER_S)
    except CoordinatorLoadInProgressError:
        return HeartbeatResponse()
    except KafkaError as error:
        return HeartbeatResponse(error_code=error.code)
    return HeartbeatResponse(error_code=answer.code)


async def leave_group(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: LeaveGroupRequest
) -> LeaveGroupResponse:
    """Handler of LeaveGroup: one member before version 3, any number since, static ones by their instance."""
    several = header.api_version >= SEVERAL_LEAVE_SINCE
    if several:
        leaving = [
            m.LeavingMember(member_id=one.member_id, instance_id=one.group_instance_id) for one in request.members
        ]
    else:
        leaving = [m.LeavingMember(member_id=request.member_id)]
    message = m.LeaveGroup(group=request.group_id, members=leaving)
    try:
        _check_group(request.group_id)
        left = await gateway.groups.ask(request.group_id, message, m.GroupLeft, ANSWER_S)
    except KafkaError as error:
        return LeaveGroupResponse(error_code=error.code)
    if not several:
        return LeaveGroupResponse(error_code=left.code or left.members[0].code)
    return LeaveGroupResponse(
        error_code=left.code,
        members=[
            MemberResponse(member_id=one.member_id, group_instance_id=one.instance_id, error_code=one.code)
            for one in left.members
        ],
    )


async def consumer_group_heartbeat(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: ConsumerGroupHeartbeatRequest
) -> ConsumerGroupHeartbeatResponse:
    """Handler of ConsumerGroupHeartbeat (KIP-848)."""
    owned = request.topic_partitions
    message = m.ConsumerHeartbeat(
        group=request.group_id,
        member_id=request.member_id,
        member_epoch=request.member_epoch,
        client_id=header.client_id or "",
        client_host=host_of(connection),
        instance_id=request.instance_id,
        rack_id=request.rack_id,
        rebalance_timeout_ms=request.rebalance_timeout_ms,
        subscribed_topics=request.subscribed_topic_names,
        subscribed_regex=request.subscribed_topic_regex,
        assignor=request.server_assignor,
        owned=None
        if owned is None
        else [m.TopicPartitions(topic_id=one.topic_id, partitions=list(one.partitions)) for one in owned],
    )
    try:
        _check_group(request.group_id)
        if not request.member_id and header.api_version > 0:
            raise InvalidRequestError("from version 1 on a member brings its own id")
        _check_size(sum(len(name) for name in request.subscribed_topic_names or ()), "a subscription")
        answer = await gateway.groups.ask(request.group_id, message, m.ConsumerHeartbeatAnswered, ANSWER_S)
    except KafkaError as error:
        return ConsumerGroupHeartbeatResponse(error_code=error.code, error_message=str(error))
    if answer.code:
        return ConsumerGroupHeartbeatResponse(error_code=answer.code, error_message=answer.reason)
    assignment = None
    if answer.assignment is not None:
        assignment = ConsumerGroupHeartbeatAssignment(
            topic_partitions=[
                ConsumerGroupHeartbeatTopicPartitions(topic_id=one.topic_id, partitions=one.partitions)
                for one in answer.assignment
            ]
        )
    return ConsumerGroupHeartbeatResponse(
        member_id=answer.member_id,
        member_epoch=answer.member_epoch,
        heartbeat_interval_ms=answer.heartbeat_interval_ms,
        assignment=assignment,
    )
