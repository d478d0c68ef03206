"""DescribeGroups (15), ListGroups (16), DeleteGroups (42) and ConsumerGroupDescribe (69)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.wire.apis import (
    ConsumerGroupAssignment,
    ConsumerGroupDescribedGroup,
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    ConsumerGroupMember,
    ConsumerGroupTopicPartitions,
    DeletableGroupResult,
    DeleteGroupsRequest,
    DeleteGroupsResponse,
    DescribedGroup,
    DescribedGroupMember,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
    ListedGroup,
    ListGroupsRequest,
    ListGroupsResponse,
)
from logeion.wire.errors import GroupIdNotFoundError, InvalidGroupIdError, KafkaError

from .. import messages as m
from .asking import Deadline, each
from .authorized import GROUP_OPERATIONS, NOT_ASKED

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection
    from .state import Gateway

TIMEOUT_S = 15.0
DELETE_S = 15.0

# From this version on an unknown group is an error, not a dead group (KIP-1043).
NOT_FOUND_SINCE = 6

CLASSIC, CONSUMER = "classic", "consumer"
CONSUMER_MEMBER = 1


async def _describe(gateway: Gateway, group: str, group_type: str, deadline: Deadline) -> m.GroupDescribed:
    """The group if it is of this type; raises ``KafkaError``."""
    if not group:
        raise InvalidGroupIdError("a group's id is empty")
    message = m.DescribeGroup(group=group)
    described = await gateway.groups.ask_reader(group, message, m.GroupDescribed, deadline)
    if described.code:
        raise GroupIdNotFoundError(f"there is no group {group!r}")
    if described.group_type != group_type:
        raise GroupIdNotFoundError(f"group {group!r} is not a {group_type} group")
    return described


async def describe_groups(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: DescribeGroupsRequest
) -> DescribeGroupsResponse:
    """Handler of DescribeGroups: classic groups; others do not exist for it."""
    deadline = Deadline(TIMEOUT_S)
    operations = GROUP_OPERATIONS if request.include_authorized_operations else NOT_ASKED

    async def describe(group: str) -> DescribedGroup:
        try:
            found = await _describe(gateway, group, CLASSIC, deadline)
        except KafkaError as error:
            code = error.code
            if code == GroupIdNotFoundError.code and header.api_version < NOT_FOUND_SINCE:
                code = 0
            return DescribedGroup(
                group_id=group,
                error_code=code,
                error_message=str(error) if code else None,
                group_state="Dead" if error.code == GroupIdNotFoundError.code else "",
                authorized_operations=operations if not code else NOT_ASKED,
            )
        return DescribedGroup(
            group_id=group,
            group_state=found.state,
            protocol_type=found.protocol_type,
            protocol_data=found.protocol,
            members=[
                DescribedGroupMember(
                    member_id=one.member_id,
                    group_instance_id=one.instance_id,
                    client_id=one.client_id,
                    client_host=one.client_host,
                    member_metadata=one.metadata,
                    member_assignment=one.assignment,
                )
                for one in found.members
            ],
            authorized_operations=operations,
        )

    return DescribeGroupsResponse(groups=await each(request.groups, describe))


async def list_groups(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: ListGroupsRequest
) -> ListGroupsResponse:
    """Handler of ListGroups: the groups of the offsets partitions this node leads, by state (KIP-518) and type."""
    try:
        entries = await gateway.groups.ask_all(m.ListGroups(), Deadline(TIMEOUT_S))
    except KafkaError as error:
        return ListGroupsResponse(error_code=error.code)
    states = {state.lower() for state in request.states_filter}
    types = {kind.lower() for kind in request.types_filter}
    return ListGroupsResponse(
        groups=[
            ListedGroup(
                group_id=one.group, protocol_type=one.protocol_type, group_state=one.state, group_type=one.group_type
            )
            for one in sorted(entries, key=lambda entry: entry.group)
            if (not states or one.state.lower() in states) and (not types or one.group_type in types)
        ]
    )


async def delete_groups(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: DeleteGroupsRequest
) -> DeleteGroupsResponse:
    """Handler of DeleteGroups: empty groups with their offsets. One that does not exist starts no process."""
    deadline = Deadline(TIMEOUT_S)

    async def delete(group: str) -> DeletableGroupResult:
        try:
            message = m.DescribeGroup(group=group)
            described = await gateway.groups.ask_reader(group, message, m.GroupDescribed, deadline)
            if described.code:
                return DeletableGroupResult(group_id=group, error_code=described.code)
            deleted = await gateway.groups.ask(group, m.DeleteGroup(group=group), m.GroupAnswered, DELETE_S)
        except KafkaError as error:
            return DeletableGroupResult(group_id=group, error_code=error.code)
        return DeletableGroupResult(group_id=group, error_code=deleted.code)

    return DeleteGroupsResponse(results=await each(request.groups_names, delete))


def _assignment(partitions: list[m.TopicPartitions]) -> ConsumerGroupAssignment:
    return ConsumerGroupAssignment(
        topic_partitions=[
            ConsumerGroupTopicPartitions(topic_id=one.topic_id, topic_name=one.name, partitions=one.partitions)
            for one in partitions
        ]
    )


async def consumer_group_describe(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: ConsumerGroupDescribeRequest
) -> ConsumerGroupDescribeResponse:
    """Handler of ConsumerGroupDescribe (KIP-848): consumer groups; classic ones do not exist for it."""
    deadline = Deadline(TIMEOUT_S)
    operations = GROUP_OPERATIONS if request.include_authorized_operations else NOT_ASKED

    async def describe(group: str) -> ConsumerGroupDescribedGroup:
        try:
            found = await _describe(gateway, group, CONSUMER, deadline)
        except KafkaError as error:
            return ConsumerGroupDescribedGroup(group_id=group, error_code=error.code, error_message=str(error))
        return ConsumerGroupDescribedGroup(
            group_id=group,
            group_state=found.state,
            group_epoch=found.group_epoch,
            assignment_epoch=found.assignment_epoch,
            assignor_name=found.assignor,
            members=[
                ConsumerGroupMember(
                    member_id=one.member_id,
                    instance_id=one.instance_id,
                    rack_id=one.rack_id,
                    member_epoch=one.member_epoch,
                    client_id=one.client_id,
                    client_host=one.client_host,
                    subscribed_topic_names=one.subscribed_topics,
                    subscribed_topic_regex=one.subscribed_regex,
                    assignment=_assignment(one.owned),
                    target_assignment=_assignment(one.target),
                    member_type=CONSUMER_MEMBER,
                )
                for one in found.members
            ],
            authorized_operations=operations,
        )

    return ConsumerGroupDescribeResponse(groups=await each(request.group_ids, describe))
