"""What is said about consumer groups, between gateways, Coordinators, group indexes, their partition and Node.

A part of ``messages``, from where everybody imports it. One class an API for all its versions; ``code`` 0 is success.
Times are milliseconds, member metadata and assignments opaque bytes of the clients' embedded protocol.
"""

from __future__ import annotations

import msgspec

from .message import Message

# Gateway and Coordinator


class GroupProtocol(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One assignor a member supports, with its subscription, in the member's order of preference."""

    name: str
    metadata: bytes


class JoinGroup(Message, frozen=True, kw_only=True):
    """Gateway to Coordinator: be a member of the next generation; parked until that generation is complete.

    ``require_member_id`` is KIP-394: an unknown member is first given its id.
    """

    group: str
    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    protocol_type: str
    protocols: list[GroupProtocol]
    session_timeout_ms: int
    rebalance_timeout_ms: int
    require_member_id: bool
    can_skip_assignment: bool = False


class JoinedMember(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One member as the leader is shown it."""

    member_id: str
    instance_id: str | None
    metadata: bytes


class GroupJoined(Message, frozen=True, kw_only=True):
    """Coordinator to Gateway: the generation, and its members if the receiver leads it."""

    code: int = 0
    generation: int = -1
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str = ""
    member_id: str = ""
    skip_assignment: bool = False
    members: list[JoinedMember] = []


class SyncGroup(Message, frozen=True, kw_only=True):
    """Gateway to Coordinator: give me my assignment; the leader brings everybody's."""

    group: str
    generation: int
    member_id: str
    instance_id: str | None = None
    protocol_type: str | None = None
    protocol: str | None = None
    assignments: dict[str, bytes] = {}


class GroupSynced(Message, frozen=True, kw_only=True):
    """Coordinator to Gateway: the member's assignment in this generation."""

    code: int = 0
    protocol_type: str | None = None
    protocol: str | None = None
    assignment: bytes = b""


class HeartbeatGroup(Message, frozen=True, kw_only=True):
    """Gateway to Coordinator: this member lives."""

    group: str
    generation: int
    member_id: str
    instance_id: str | None = None


class GroupAnswered(Message, frozen=True, kw_only=True):
    """Coordinator to Gateway: a code and nothing else."""

    code: int = 0


class LeavingMember(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One member that leaves; a static one may be named by its instance alone (KIP-345)."""

    member_id: str
    instance_id: str | None = None
    code: int = 0


class LeaveGroup(Message, frozen=True, kw_only=True):
    """Gateway to Coordinator: these members go, now."""

    group: str
    members: list[LeavingMember]


class GroupLeft(Message, frozen=True, kw_only=True):
    """Coordinator to Gateway: one code a member, in the order asked."""

    code: int = 0
    members: list[LeavingMember] = []


class OffsetToCommit(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One partition's position; ``leader_epoch`` -1 is unknown."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    topic_id: str = ""


class CommitOffsets(Message, frozen=True, kw_only=True):
    """Gateway to Coordinator: all of these or none. A generation or member epoch of -1 and no member: no membership."""

    group: str
    generation: int
    member_id: str
    offsets: list[OffsetToCommit]
    instance_id: str | None = None


class OffsetsCommitted(Message, frozen=True, kw_only=True):
    """Coordinator to Gateway: ``code`` for the request, else one code an offset in the order asked."""

    code: int = 0
    codes: list[int] = []


class FetchOffsets(Message, frozen=True, kw_only=True):
    """Gateway to Coordinator: committed offsets of these partitions, or of all when ``partitions`` is None.

    ``member_epoch`` -1 and no member id asks as an admin does (KIP-848 checks the others).
    """

    group: str
    partitions: list[tuple[str, int]] | None = None
    member_id: str | None = None
    member_epoch: int = -1


class OffsetsFetched(Message, frozen=True, kw_only=True):
    """Coordinator to Gateway: what is committed; an offset of -1 where nothing is."""

    code: int = 0
    offsets: list[OffsetToCommit] = []


class DescribeGroup(Message, frozen=True, kw_only=True):
    """Gateway to Coordinator: the whole group."""

    group: str


class DescribedMember(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One member; of a classic group the bytes, of a consumer group (KIP-848) the epochs and partitions."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes = b""
    assignment: bytes = b""
    rack_id: str | None = None
    member_epoch: int = -1
    subscribed_topics: list[str] = []
    subscribed_regex: str | None = None
    owned: list[TopicPartitions] = []
    target: list[TopicPartitions] = []


class GroupDescribed(Message, frozen=True, kw_only=True):
    """Coordinator to Gateway: state in Kafka's words; ``group_type`` is ``classic`` or ``consumer``."""

    code: int = 0
    group: str = ""
    group_type: str = "classic"
    state: str = "Dead"
    protocol_type: str = ""
    protocol: str = ""
    members: list[DescribedMember] = []
    group_epoch: int = -1
    assignment_epoch: int = -1
    assignor: str = ""


class TopicPartitions(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Partitions of one topic, by id (32 hex digits); the name where a person reads it."""

    topic_id: str
    partitions: list[int]
    name: str = ""


class ConsumerHeartbeat(Message, frozen=True, kw_only=True):
    """Gateway to Coordinator: ConsumerGroupHeartbeat (KIP-848); a null field is unchanged since the last one."""

    group: str
    member_id: str
    member_epoch: int
    client_id: str
    client_host: str
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    subscribed_topics: list[str] | None = None
    subscribed_regex: str | None = None
    assignor: str | None = None
    owned: list[TopicPartitions] | None = None


class ConsumerHeartbeatAnswered(Message, frozen=True, kw_only=True):
    """Coordinator to Gateway: the member's epoch, and its assignment where it changed."""

    code: int = 0
    reason: str | None = None
    member_id: str | None = None
    member_epoch: int = 0
    heartbeat_interval_ms: int = 0
    assignment: list[TopicPartitions] | None = None


class DeleteGroup(Message, frozen=True, kw_only=True):
    """Gateway to Coordinator: forget an empty group and its offsets."""

    group: str


class DeleteOffsets(Message, frozen=True, kw_only=True):
    """Gateway to Coordinator: OffsetDelete (KIP-496); refused for topics the group subscribes to."""

    group: str
    partitions: list[tuple[str, int]]


class OffsetsDeleted(Message, frozen=True, kw_only=True):
    """Coordinator to Gateway: ``code`` for the request, else one a partition."""

    code: int = 0
    codes: list[int] = []


class ListGroups(Message, frozen=True, kw_only=True):
    """Gateway to a group index or a Coordinator: every group you know, in a line each."""


class GroupEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One group as lists show it, in Kafka's words."""

    group: str
    group_type: str = "classic"
    state: str = "Empty"
    protocol_type: str = ""


class GroupsListed(Message, frozen=True, kw_only=True):
    """A group index to Gateway: the groups that have records. A Coordinator to Gateway: its own, if it exists."""

    groups: list[GroupEntry]


# Coordinator and its offsets partition


class OpenWriter(Message, frozen=True, kw_only=True):
    """Coordinator to Partition: from now on refuse what older incarnations of this writer send."""

    epoch: int
    writer: str
    incarnation: int


class WriterOpened(Message, frozen=True, kw_only=True):
    """Partition to Coordinator: nothing of an older incarnation comes at or after ``end``."""

    end: int


# Coordinator and group index


class ReadGroup(Message, frozen=True, kw_only=True):
    """Coordinator to group index: the group's records from number ``at`` on, once you have read up to ``end``."""

    group: str
    end: int
    at: int = 0


class GroupRead(Message, frozen=True, kw_only=True):
    """Group index to Coordinator: the newest record of each of the group's keys (``coordinator.records.pack``).

    ``next`` is where the next question goes on, -1 if that was all. ``gone`` are the ids of topics that have positions
    in the group but do not exist any more.
    """

    records: bytes
    next: int = -1
    gone: list[str] = []


class TopicsGone(Message, frozen=True, kw_only=True):
    """Group index to the Coordinators that have read their group from it: these topics were deleted."""

    topic_ids: list[str]


# Node, gateways and indexes about who runs


class EnsureCoordinator(Message, frozen=True, kw_only=True):
    """Gateway or group index to Node: somebody wants this group's Coordinator; said again while it does not come.

    ``upkeep`` means that nobody waits: the Coordinator drops what is past its retention and goes again.
    """

    group: str
    topic_id: str
    partition: int
    upkeep: bool = False


class CoordinatorRunning(Message, frozen=True, kw_only=True):
    """Node to Gateway: this group's Coordinator serves on its socket."""

    group: str
    topic_id: str
    partition: int
    epoch: int
    incarnation: int


class CoordinatorStopped(Message, frozen=True, kw_only=True):
    """Node to Gateway: that incarnation is gone, or going; ``cause`` is set when it failed again and again."""

    group: str
    incarnation: int
    cause: str = ""


class IndexRunning(Message, frozen=True, kw_only=True):
    """Node to Gateway: the group index of this offsets partition serves on its socket."""

    topic_id: str
    partition: int
    epoch: int
    incarnation: int


class IndexStopped(Message, frozen=True, kw_only=True):
    """Node to Gateway: that incarnation is gone."""

    topic_id: str
    partition: int
    incarnation: int
