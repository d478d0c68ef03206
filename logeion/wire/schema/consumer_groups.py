"""Consumer groups assigned by the broker (KIP-848)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..fields import ZERO_UUID, Bool, Int8, Int16, Int32, Since, String, Struct, Uuid


class ConsumerGroupHeartbeatTopicPartitions(Struct):
    """An element of ``ConsumerGroupHeartbeatRequest.topic_partitions``."""

    topic_id: Uuid = ZERO_UUID
    partitions: list[Int32] = []


class ConsumerGroupHeartbeatRequest(Struct):
    """Key 68, versions 0-1, flexible from 0."""

    group_id: String = ""
    member_id: String = ""
    member_epoch: Int32 = 0
    instance_id: String | None = None
    rack_id: String | None = None
    rebalance_timeout_ms: Int32 = -1
    subscribed_topic_names: list[String] | None = None
    subscribed_topic_regex: Annotated[String | None, Since(1)] = None
    server_assignor: String | None = None
    topic_partitions: list[ConsumerGroupHeartbeatTopicPartitions] | None = None


class ConsumerGroupHeartbeatAssignment(Struct):
    """The value of ``ConsumerGroupHeartbeatResponse.assignment``."""

    topic_partitions: list[ConsumerGroupHeartbeatTopicPartitions] = []


class ConsumerGroupHeartbeatResponse(Struct):
    """Key 68, versions 0-1, flexible from 0."""

    throttle_time_ms: Int32 = 0
    error_code: Int16 = 0
    error_message: String | None = None
    member_id: String | None = None
    member_epoch: Int32 = 0
    heartbeat_interval_ms: Int32 = 0
    assignment: ConsumerGroupHeartbeatAssignment | None = None


class ConsumerGroupDescribeRequest(Struct):
    """Key 69, versions 0-1, flexible from 0."""

    group_ids: list[String] = []
    include_authorized_operations: Bool = False


class ConsumerGroupTopicPartitions(Struct):
    """An element of ``ConsumerGroupDescribeResponse.groups.members.assignment.topic_partitions``."""

    topic_id: Uuid = ZERO_UUID
    topic_name: String = ""
    partitions: list[Int32] = []


class ConsumerGroupAssignment(Struct):
    """The value of ``ConsumerGroupDescribeResponse.groups.members.assignment``."""

    topic_partitions: list[ConsumerGroupTopicPartitions] = []


class ConsumerGroupMember(Struct):
    """An element of ``ConsumerGroupDescribeResponse.groups.members``."""

    member_id: String = ""
    instance_id: String | None = None
    rack_id: String | None = None
    member_epoch: Int32 = 0
    client_id: String = ""
    client_host: String = ""
    subscribed_topic_names: list[String] = []
    subscribed_topic_regex: String | None = None
    assignment: ConsumerGroupAssignment = msgspec.field(default_factory=ConsumerGroupAssignment)
    target_assignment: ConsumerGroupAssignment = msgspec.field(default_factory=ConsumerGroupAssignment)
    member_type: Annotated[Int8, Since(1)] = -1


class ConsumerGroupDescribedGroup(Struct):
    """An element of ``ConsumerGroupDescribeResponse.groups``."""

    error_code: Int16 = 0
    error_message: String | None = None
    group_id: String = ""
    group_state: String = ""
    group_epoch: Int32 = 0
    assignment_epoch: Int32 = 0
    assignor_name: String = ""
    members: list[ConsumerGroupMember] = []
    authorized_operations: Int32 = -2147483648


class ConsumerGroupDescribeResponse(Struct):
    """Key 69, versions 0-1, flexible from 0."""

    throttle_time_ms: Int32 = 0
    groups: list[ConsumerGroupDescribedGroup] = []
