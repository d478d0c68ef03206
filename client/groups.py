"""Consumer groups from outside: which there are, who is in them, what they have committed, and changing that.

Each question goes to the group's coordinator, which is found first; all of it is retried as ``retries.advise`` allows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

import msgspec

from logeion.wire.apis import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    DeleteGroupsRequest,
    DeleteGroupsResponse,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    ListGroupsRequest,
    ListGroupsResponse,
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchResponse,
)
from logeion.wire.errors import CoordinatorNotAvailableError, GroupIdNotFoundError, NotCoordinatorError, for_code
from logeion.wire.fields import Struct

from .addresses import Address
from .cluster import Cluster
from .errors import ClientError
from .positions import TopicPartition

OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR = 8, 9, 10
DESCRIBE_GROUPS, LIST_GROUPS, DELETE_GROUPS, CONSUMER_GROUP_DESCRIBE = 15, 16, 42, 69
GROUP = 0
# Offsets that are committed in one request.
TOGETHER = 1000

R = TypeVar("R", bound=Struct)


class CommittedOffset(msgspec.Struct, frozen=True):
    """A group's position in a partition; ``leader_epoch`` is -1 where none was told."""

    offset: int
    metadata: str = ""
    leader_epoch: int = -1


class GroupListing(msgspec.Struct, frozen=True):
    """One group as lists show it; ``kind`` is classic or consumer (KIP-848)."""

    group: str
    kind: str
    state: str
    protocol_type: str


class GroupMember(msgspec.Struct, frozen=True):
    """One member and the partitions it was assigned."""

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    partitions: list[TopicPartition]


class GroupInfo(msgspec.Struct, frozen=True):
    """One group; ``assignor`` is the assignment strategy its members agreed on, ``coordinator`` a node id."""

    group: str
    kind: str
    state: str
    assignor: str
    coordinator: int
    members: list[GroupMember]


class Groups:
    """Calls about consumer groups. Each raises KafkaError as the broker answers it, or a ClientError."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._coordinators: dict[str, int] = {}

    async def ls(self) -> list[GroupListing]:
        """The groups of all brokers, by name."""

        async def ask() -> list[GroupListing]:
            await self._cluster.refresh(())
            found = {}
            for node in self._cluster.metadata.brokers:
                answer = cast(ListGroupsResponse, await self._cluster.call(LIST_GROUPS, ListGroupsRequest(), node=node))
                if answer.error_code:
                    raise for_code(answer.error_code)(f"the groups of broker {node}")
                for one in answer.groups:
                    found[one.group_id] = GroupListing(
                        one.group_id, one.group_type or "classic", one.group_state, one.protocol_type
                    )
            return [found[group] for group in sorted(found)]

        return await self._cluster.retrying(ask, what="the list of groups")

    async def describe(self, group: str) -> GroupInfo:
        """Raises GroupIdNotFoundError."""
        request = DescribeGroupsRequest(groups=[group])
        answer = await self._ask(group, DESCRIBE_GROUPS, request, DescribeGroupsResponse)
        found = answer.groups[0]
        if found.error_code and found.error_code != GroupIdNotFoundError.code:
            raise for_code(found.error_code)(f"group {group!r}")
        if not found.error_code and found.group_state != "Dead":
            return GroupInfo(
                group,
                "classic",
                found.group_state,
                found.protocol_data,
                self._coordinators[group],
                [
                    GroupMember(
                        one.member_id,
                        one.group_instance_id,
                        one.client_id,
                        one.client_host,
                        assigned(bytes(one.member_assignment)) if found.protocol_type == "consumer" else [],
                    )
                    for one in found.members
                ],
            )
        return await self._describe_consumer(group)

    async def _describe_consumer(self, group: str) -> GroupInfo:
        request = ConsumerGroupDescribeRequest(group_ids=[group])
        answer = await self._ask(group, CONSUMER_GROUP_DESCRIBE, request, ConsumerGroupDescribeResponse)
        found = answer.groups[0]
        if found.error_code:
            told = (
                f"there is no group {group!r}" if found.error_code == GroupIdNotFoundError.code else f"group {group!r}"
            )
            raise for_code(found.error_code)(told)
        return GroupInfo(
            group,
            "consumer",
            found.group_state,
            found.assignor_name,
            self._coordinators[group],
            [
                GroupMember(
                    one.member_id,
                    one.instance_id,
                    one.client_id,
                    one.client_host,
                    [
                        TopicPartition(topic.topic_name, number)
                        for topic in one.assignment.topic_partitions
                        for number in topic.partitions
                    ],
                )
                for one in found.members
            ],
        )

    async def offsets(self, group: str) -> dict[TopicPartition, int]:
        """All that the group has committed; nothing for a group that does not exist."""
        return {tp: one.offset for tp, one in (await self.committed(group)).items()}

    async def committed(self, group: str) -> dict[TopicPartition, CommittedOffset]:
        """What ``offsets`` says, with what was committed beside it."""
        request = OffsetFetchRequest(
            group_id=group, topics=None, groups=[OffsetFetchRequestGroup(group_id=group, topics=None)]
        )
        found: dict[TopicPartition, CommittedOffset] = {}

        async def ask(answer: OffsetFetchResponse) -> None:
            code = answer.groups[0].error_code if answer.groups else answer.error_code
            if code:
                raise for_code(code)(f"the offsets of group {group!r}")
            topics = answer.groups[0].topics if answer.groups else answer.topics
            for topic in topics:
                for one in topic.partitions:
                    if one.committed_offset >= 0:
                        where = TopicPartition(topic.name, one.partition_index)
                        found[where] = CommittedOffset(
                            one.committed_offset, one.metadata or "", one.committed_leader_epoch
                        )

        await ask(await self._ask(group, OFFSET_FETCH, request, OffsetFetchResponse))
        return dict(sorted(found.items()))

    async def commit(
        self, group: str, offsets: Mapping[TopicPartition, int], metadata: Mapping[TopicPartition, str] | None = None
    ) -> None:
        """Sets these positions of a group without members. Raises UnknownMemberIdError if it has some."""
        notes = metadata or {}
        rest = list(offsets.items())
        while rest:
            part, rest = rest[:TOGETHER], rest[TOGETHER:]
            topics: dict[str, list[OffsetCommitRequestPartition]] = {}
            for where, offset in part:
                entry = OffsetCommitRequestPartition(
                    partition_index=where.partition, committed_offset=offset, committed_metadata=notes.get(where, "")
                )
                topics.setdefault(where.topic, []).append(entry)
            request = OffsetCommitRequest(
                group_id=group,
                topics=[OffsetCommitRequestTopic(name=name, partitions=rows) for name, rows in topics.items()],
            )
            answer = await self._ask(group, OFFSET_COMMIT, request, OffsetCommitResponse)
            for topic in answer.topics:
                for one in topic.partitions:
                    if one.error_code:
                        raise for_code(one.error_code)(f"{topic.name}[{one.partition_index}] of group {group!r}")

    async def delete(self, group: str) -> None:
        """Raises GroupIdNotFoundError, NonEmptyGroupError."""
        request = DeleteGroupsRequest(groups_names=[group])
        answer = await self._ask(group, DELETE_GROUPS, request, DeleteGroupsResponse)
        code = answer.results[0].error_code
        if code:
            kind = for_code(code)
            told = f"there is no group {group!r}" if kind is GroupIdNotFoundError else f"group {group!r}"
            raise kind(told)

    # The coordinator

    async def _ask(self, group: str, api_key: int, request: Struct, kind: type[R]) -> R:
        """The coordinator's answer; asked again, of whoever it is then, after a retriable code of the whole answer."""

        async def ask() -> R:
            if group not in self._coordinators:
                self._coordinators[group] = await self._find(group)
            try:
                answer = await self._cluster.call(api_key, request, node=self._coordinators[group])
            except ClientError:
                # It may be gone for long: the others know who took its place.
                self._coordinators.pop(group, None)
                raise
            code = _first_code(answer)
            error = for_code(code) if code else None
            if error is not None and error.retriable:
                if error in (NotCoordinatorError, CoordinatorNotAvailableError):
                    self._coordinators.pop(group, None)
                raise error(f"group {group!r}")
            return cast(R, answer)

        return await self._cluster.retrying(ask, what=f"group {group!r}")

    async def coordinator(self, group: str) -> int:
        """The node id of the broker that looks after this group now."""
        return await self._cluster.retrying(lambda: self._find(group), what=f"the coordinator of group {group!r}")

    async def _find(self, group: str) -> int:
        request = FindCoordinatorRequest(key=group, key_type=GROUP, coordinator_keys=[group])
        answer = cast(FindCoordinatorResponse, await self._cluster.call(FIND_COORDINATOR, request))
        found = answer.coordinators[0] if answer.coordinators else answer
        if found.error_code:
            raise for_code(found.error_code)(found.error_message or f"the coordinator of group {group!r}")
        self._cluster.metadata.brokers.setdefault(found.node_id, Address(found.host, found.port))
        return found.node_id


def _first_code(answer: Struct) -> int:
    """The code that stands for a whole answer: its own, or that of its first entry."""
    code = getattr(answer, "error_code", 0)
    if code:
        return int(code)
    entries: Iterable[Struct] = getattr(answer, "groups", None) or getattr(answer, "results", None) or []
    for entry in entries:
        return int(getattr(entry, "error_code", 0))
    for topic in getattr(answer, "topics", ()):
        for one in topic.partitions:
            return int(one.error_code)
    return 0


def assigned(data: bytes) -> list[TopicPartition]:
    """The partitions of an embedded assignment (version i16, topics with partitions); none if it is something else."""
    found: list[TopicPartition] = []
    try:
        (count,) = struct.unpack_from(">i", data, 2)
        at = 6
        for _ in range(count):
            (length,) = struct.unpack_from(">h", data, at)
            name = data[at + 2 : at + 2 + length].decode()
            at += 2 + length
            (partitions,) = struct.unpack_from(">i", data, at)
            if not 0 <= 4 * partitions <= len(data) - at - 4:
                return []
            found += [TopicPartition(name, one) for one in struct.unpack_from(f">{partitions}i", data, at + 4)]
            at += 4 + 4 * partitions
    except (struct.error, UnicodeDecodeError):
        return []
    return sorted(found)
