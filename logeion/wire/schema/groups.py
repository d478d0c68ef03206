"""Classic consumer groups and their coordinators."""

from __future__ import annotations

from typing import Annotated

from ..fields import Bool, Bytes, Int8, Int16, Int32, Nullable, Since, String, Struct, Until


class FindCoordinatorRequest(Struct):
    """Key 10, versions 0-6, flexible from 3."""

    key: Annotated[String, Until(3)] = ""
    key_type: Annotated[Int8, Since(1)] = 0
    coordinator_keys: Annotated[list[String], Since(4)] = []


class Coordinator(Struct):
    """An element of ``FindCoordinatorResponse.coordinators``."""

    key: String = ""
    node_id: Int32 = 0
    host: String = ""
    port: Int32 = 0
    error_code: Int16 = 0
    error_message: String | None = ""


class FindCoordinatorResponse(Struct):
    """Key 10, versions 0-6, flexible from 3."""

    throttle_time_ms: Annotated[Int32, Since(1)] = 0
    error_code: Annotated[Int16, Until(3)] = 0
    error_message: Annotated[String | None, Since(1), Until(3)] = ""
    node_id: Annotated[Int32, Until(3)] = 0
    host: Annotated[String, Until(3)] = ""
    port: Annotated[Int32, Until(3)] = 0
    coordinators: Annotated[list[Coordinator], Since(4)] = []


class JoinGroupRequestProtocol(Struct):
    """An element of ``JoinGroupRequest.protocols``."""

    name: String = ""
    metadata: Bytes = b""


class JoinGroupRequest(Struct):
    """Key 11, versions 0-9, flexible from 6."""

    group_id: String = ""
    session_timeout_ms: Int32 = 0
    rebalance_timeout_ms: Annotated[Int32, Since(1)] = -1
    member_id: String = ""
    group_instance_id: Annotated[String | None, Since(5)] = None
    protocol_type: String = ""
    protocols: list[JoinGroupRequestProtocol] = []
    reason: Annotated[String | None, Since(8)] = None


class JoinGroupResponseMember(Struct):
    """An element of ``JoinGroupResponse.members``."""

    member_id: String = ""
    group_instance_id: Annotated[String | None, Since(5)] = None
    metadata: Bytes = b""


class JoinGroupResponse(Struct):
    """Key 11, versions 0-9, flexible from 6."""

    throttle_time_ms: Annotated[Int32, Since(2)] = 0
    error_code: Int16 = 0
    generation_id: Int32 = -1
    protocol_type: Annotated[String | None, Since(7)] = None
    protocol_name: Annotated[String | None, Nullable(7)] = ""
    leader: String = ""
    skip_assignment: Annotated[Bool, Since(9)] = False
    member_id: String = ""
    members: list[JoinGroupResponseMember] = []


class HeartbeatRequest(Struct):
    """Key 12, versions 0-4, flexible from 4."""

    group_id: String = ""
    generation_id: Int32 = 0
    member_id: String = ""
    group_instance_id: Annotated[String | None, Since(3)] = None


class HeartbeatResponse(Struct):
    """Key 12, versions 0-4, flexible from 4."""

    throttle_time_ms: Annotated[Int32, Since(1)] = 0
    error_code: Int16 = 0


class MemberIdentity(Struct):
    """An element of ``LeaveGroupRequest.members``."""

    member_id: String = ""
    group_instance_id: String | None = None
    reason: Annotated[String | None, Since(5)] = None


class LeaveGroupRequest(Struct):
    """Key 13, versions 0-5, flexible from 4."""

    group_id: String = ""
    member_id: Annotated[String, Until(2)] = ""
    members: Annotated[list[MemberIdentity], Since(3)] = []


class MemberResponse(Struct):
    """An element of ``LeaveGroupResponse.members``."""

    member_id: String = ""
    group_instance_id: String | None = ""
    error_code: Int16 = 0


class LeaveGroupResponse(Struct):
    """Key 13, versions 0-5, flexible from 4."""

    throttle_time_ms: Annotated[Int32, Since(1)] = 0
    error_code: Int16 = 0
    members: Annotated[list[MemberResponse], Since(3)] = []


class SyncGroupRequestAssignment(Struct):
    """An element of ``SyncGroupRequest.assignments``."""

    member_id: String = ""
    assignment: Bytes = b""


class SyncGroupRequest(Struct):
    """Key 14, versions 0-5, flexible from 4."""

    group_id: String = ""
    generation_id: Int32 = 0
    member_id: String = ""
    group_instance_id: Annotated[String | None, Since(3)] = None
    protocol_type: Annotated[String | None, Since(5)] = None
    protocol_name: Annotated[String | None, Since(5)] = None
    assignments: list[SyncGroupRequestAssignment] = []


class SyncGroupResponse(Struct):
    """Key 14, versions 0-5, flexible from 4."""

    throttle_time_ms: Annotated[Int32, Since(1)] = 0
    error_code: Int16 = 0
    protocol_type: Annotated[String | None, Since(5)] = None
    protocol_name: Annotated[String | None, Since(5)] = None
    assignment: Bytes = b""


class DescribeGroupsRequest(Struct):
    """Key 15, versions 0-6, flexible from 5."""

    groups: list[String] = []
    include_authorized_operations: Annotated[Bool, Since(3)] = False


class DescribedGroupMember(Struct):
    """An element of ``DescribeGroupsResponse.groups.members``."""

    member_id: String = ""
    group_instance_id: Annotated[String | None, Since(4)] = None
    client_id: String = ""
    client_host: String = ""
    member_metadata: Bytes = b""
    member_assignment: Bytes = b""


class DescribedGroup(Struct):
    """An element of ``DescribeGroupsResponse.groups``."""

    error_code: Int16 = 0
    error_message: Annotated[String | None, Since(6)] = None
    group_id: String = ""
    group_state: String = ""
    protocol_type: String = ""
    protocol_data: String = ""
    members: list[DescribedGroupMember] = []
    authorized_operations: Annotated[Int32, Since(3)] = -2147483648


class DescribeGroupsResponse(Struct):
    """Key 15, versions 0-6, flexible from 5."""

    throttle_time_ms: Annotated[Int32, Since(1)] = 0
    groups: list[DescribedGroup] = []


class ListGroupsRequest(Struct):
    """Key 16, versions 0-5, flexible from 3."""

    states_filter: Annotated[list[String], Since(4)] = []
    types_filter: Annotated[list[String], Since(5)] = []


class ListedGroup(Struct):
    """An element of ``ListGroupsResponse.groups``."""

    group_id: String = ""
    protocol_type: String = ""
    group_state: Annotated[String, Since(4)] = ""
    group_type: Annotated[String, Since(5)] = ""


class ListGroupsResponse(Struct):
    """Key 16, versions 0-5, flexible from 3."""

    throttle_time_ms: Annotated[Int32, Since(1)] = 0
    error_code: Int16 = 0
    groups: list[ListedGroup] = []


class DeleteGroupsRequest(Struct):
    """Key 42, versions 0-2, flexible from 2."""

    groups_names: list[String] = []


class DeletableGroupResult(Struct):
    """An element of ``DeleteGroupsResponse.results``."""

    group_id: String = ""
    error_code: Int16 = 0


class DeleteGroupsResponse(Struct):
    """Key 42, versions 0-2, flexible from 2."""

    throttle_time_ms: Int32 = 0
    results: list[DeletableGroupResult] = []
