"""What clients are told about groups: every version of each request, by a real group machine behind the handlers."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, cast

import pytest

from logeion.actors import messages as m
from logeion.actors.coordinator.machine import GroupMachine
from logeion.actors.coordinator.step import Now, Settings
from logeion.actors.gateway.asking import Deadline
from logeion.actors.gateway.group_admin import (
    consumer_group_describe,
    delete_groups,
    describe_groups,
    list_groups,
)
from logeion.actors.gateway.group_membership import (
    consumer_group_heartbeat,
    heartbeat,
    join_group,
    leave_group,
    sync_group,
)
from logeion.actors.gateway.group_offsets import offset_commit, offset_delete, offset_fetch
from logeion.wire import errors
from logeion.wire.apis import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupHeartbeatRequest,
    DeleteGroupsRequest,
    DescribeGroupsRequest,
    HeartbeatRequest,
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    LeaveGroupRequest,
    ListGroupsRequest,
    MemberIdentity,
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
)
from tests.actors.gateway_world import ORDERS, World

NOWHERE = "f" * 32
SUBSCRIPTION = b"\0\0\0\0\0\1\0\6orders\xff\xff\xff\xff"


class Coordinators:
    """In place of the gateway's routing: every group's machine, at once and without a log."""

    def __init__(self) -> None:
        self.machines: dict[str, GroupMachine] = {}
        self.tokens = itertools.count(1)
        self.refusal: errors.KafkaError | None = None

    async def ask(self, group: str, message: Any, expected: type[Any], timeout_s: float) -> Any:
        assert timeout_s > 0
        if self.refusal is not None:
            raise self.refusal
        machine = self.machines.setdefault(group, GroupMachine(group, Settings()))
        machine.topics = {"orders": (ORDERS, 3)}
        token = next(self.tokens)
        message = m.decode(m.encode(message))
        step = machine.handle(token, message, Now(0.0, 1_000), f"id-{token}")
        ((answered, reply),) = step.replies
        assert answered == token
        reply = m.decode(m.encode(reply))
        assert isinstance(reply, expected)
        return reply

    async def ask_reader(self, group: str, message: Any, expected: type[Any], deadline: Deadline) -> Any:
        reply = await self.ask(group, message, expected, deadline.left)
        if not self.machines[group].exists:
            del self.machines[group]
        return reply

    async def positions(self, message: m.FetchOffsets, deadline: Deadline) -> m.OffsetsFetched:
        ask = self.ask_reader(message.group, message, m.OffsetsFetched, deadline)
        return cast(m.OffsetsFetched, await ask)

    async def ask_all(self, message: m.ListGroups, deadline: Deadline) -> list[m.GroupEntry]:
        return [machine.entry() for machine in self.machines.values()]


class GroupWorld(World):
    def __init__(self) -> None:
        super().__init__()
        self.groups: Any = Coordinators()

    def call(self, handler: Any, key: int, version: int, request: Any) -> Any:
        """Our codec's answer; kio has read it, too."""
        return asyncio.run(self.ask(handler, key, version, request))[0]

    def join(self, version: int = 9, member_id: str = "", **changes: Any) -> Any:
        fields: dict[str, Any] = {
            "group_id": "g",
            "session_timeout_ms": 10_000,
            "rebalance_timeout_ms": 20_000,
            "member_id": member_id,
            "protocol_type": "consumer",
            "protocols": [JoinGroupRequestProtocol(name="range", metadata=SUBSCRIPTION)],
        }
        return self.call(join_group, 11, version, JoinGroupRequest(**(fields | changes)))

    def member(self) -> str:
        """The id of the one member of a settled group."""
        member_id = str(self.join().member_id)
        assert self.join(member_id=member_id).error_code == 0
        request = SyncGroupRequest(
            group_id="g",
            generation_id=1,
            member_id=member_id,
            assignments=[SyncGroupRequestAssignment(member_id=member_id, assignment=b"all")],
        )
        assert self.call(sync_group, 14, 5, request).assignment == b"all"
        return member_id

    def commit(self, version: int, partition: int = 0, offset: int = 7, **changes: Any) -> list[int]:
        row = OffsetCommitRequestPartition(
            partition_index=partition, committed_offset=offset, committed_metadata=changes.pop("metadata", "note")
        )
        topic = OffsetCommitRequestTopic(
            name=changes.pop("topic", "orders"), topic_id=changes.pop("topic_id", ORDERS), partitions=[row]
        )
        request = OffsetCommitRequest(**({"group_id": "g", "topics": [topic]} | changes))
        answer = self.call(offset_commit, 8, version, request)
        return [one.error_code for topic in answer.topics for one in topic.partitions]


@pytest.mark.parametrize("version", range(10))
def test_joining_gives_an_id_first_where_the_version_knows_that(version: int) -> None:
    world = GroupWorld()
    answer = world.join(version)
    if version < 4:
        assert (answer.error_code, answer.generation_id, answer.leader) == (0, 1, answer.member_id)
        assert [(one.member_id, bytes(one.metadata)) for one in answer.members] == [(answer.member_id, SUBSCRIPTION)]
        return
    assert answer.error_code == errors.MemberIdRequiredError.code
    assert answer.protocol_name == (None if version >= 7 else "")
    answer = world.join(version, answer.member_id)
    assert (answer.error_code, answer.protocol_name) == (0, "range")
    assert answer.protocol_type == ("consumer" if version >= 7 else None)


def test_a_group_without_a_name_and_metadata_that_cannot_be_stored_are_refused_before_they_do_harm() -> None:
    world = GroupWorld()
    assert world.join(group_id="").error_code == errors.InvalidGroupIdError.code
    huge = [JoinGroupRequestProtocol(name="range", metadata=bytes(3 << 20))]
    assert world.join(protocols=huge).error_code == errors.UnknownServerError.code
    assert world.groups.machines == {}
    member = world.member()
    assignments = [SyncGroupRequestAssignment(member_id=member, assignment=bytes(3 << 20))]
    request = SyncGroupRequest(group_id="g", generation_id=1, member_id=member, assignments=assignments)
    assert world.call(sync_group, 14, 5, request).error_code == errors.UnknownServerError.code


@pytest.mark.parametrize("version", range(5))
def test_a_heartbeat_to_a_group_that_still_loads_is_well(version: int) -> None:
    world = GroupWorld()
    world.groups.refusal = errors.CoordinatorLoadInProgressError("it starts")
    assert world.call(heartbeat, 12, version, HeartbeatRequest(group_id="g")).error_code == 0
    assert world.join().error_code == errors.CoordinatorLoadInProgressError.code


def test_a_refusal_of_the_coordinator_is_the_clients_code_in_every_answer() -> None:
    world = GroupWorld()
    world.groups.refusal = errors.NotCoordinatorError("it died")
    code = errors.NotCoordinatorError.code
    assert world.join().error_code == code
    assert world.call(sync_group, 14, 5, SyncGroupRequest(group_id="g")).error_code == code
    assert world.call(heartbeat, 12, 4, HeartbeatRequest(group_id="g")).error_code == code
    assert world.call(leave_group, 13, 5, LeaveGroupRequest(group_id="g")).error_code == code
    assert world.commit(9) == [code]
    for version in (1, 2, 7):
        answer = world.call(
            offset_fetch,
            9,
            version,
            OffsetFetchRequest(group_id="g", topics=[OffsetFetchRequestTopic(name="orders", partition_indexes=[0])]),
        )
        row = answer.topics[0].partitions[0]
        assert (answer.error_code, row.error_code) == ((0, code) if version < 2 else (code, 0))
        assert row.committed_offset == -1
    request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id="g", topics=None)])
    assert world.call(offset_fetch, 9, 8, request).groups[0].error_code == code
    assert world.call(consumer_group_heartbeat, 68, 1, beat()).error_code == code
    assert world.call(delete_groups, 42, 2, DeleteGroupsRequest(groups_names=["g"])).results[0].error_code == code
    assert world.call(describe_groups, 15, 6, DescribeGroupsRequest(groups=["g"])).groups[0].error_code == code


@pytest.mark.parametrize("version", range(5))
def test_heartbeats_know_member_and_generation(version: int) -> None:
    world = GroupWorld()
    member = world.member()

    def beaten(member_id: str, generation: int) -> int:
        request = HeartbeatRequest(group_id="g", generation_id=generation, member_id=member_id)
        return int(world.call(heartbeat, 12, version, request).error_code)

    assert [beaten(member, 1), beaten(member, 0), beaten("nobody", 1)] == [0, 22, 25]


@pytest.mark.parametrize("version", range(6))
def test_leaving_is_one_member_in_old_versions_and_several_in_new_ones(version: int) -> None:
    world = GroupWorld()
    member = world.member()
    request = LeaveGroupRequest(
        group_id="g", member_id=member, members=[MemberIdentity(member_id=member), MemberIdentity(member_id="nobody")]
    )
    answer = world.call(leave_group, 13, version, request)
    assert answer.error_code == 0
    if version >= 3:
        assert [(one.member_id, one.error_code) for one in answer.members] == [(member, 0), ("nobody", 25)]
    else:
        assert world.call(leave_group, 13, version, request).error_code == 25


@pytest.mark.parametrize("version", range(2, 11))
def test_what_is_committed_is_fetched_in_every_version(version: int) -> None:
    world = GroupWorld()
    assert world.commit(version) == [0]
    assert world.commit(version, partition=9) == [errors.UnknownTopicOrPartitionError.code]
    unknown = world.commit(version, topic="nope", topic_id=NOWHERE)
    assert unknown == [errors.UnknownTopicIdError.code if version >= 10 else errors.UnknownTopicOrPartitionError.code]
    assert world.commit(version, metadata="x" * 5000) == [errors.OffsetMetadataTooLargeError.code]
    for fetching in range(1, 8):
        asked = [OffsetFetchRequestTopic(name="orders", partition_indexes=[0, 1])]
        for topics in [asked] if fetching < 2 else [asked, None]:
            answer = world.call(offset_fetch, 9, fetching, OffsetFetchRequest(group_id="g", topics=topics))
            (topic,) = answer.topics
            rows = [(one.partition_index, one.committed_offset, one.metadata) for one in topic.partitions]
            assert rows == [(0, 7, "note")] + ([(1, -1, "")] if topics else [])


@pytest.mark.parametrize("version", (8, 9, 10))
def test_several_groups_are_fetched_at_once_by_name_or_by_id(version: int) -> None:
    world = GroupWorld()
    world.commit(9)
    topics = [
        OffsetFetchRequestTopics(name="orders", topic_id=ORDERS, partition_indexes=[0]),
        OffsetFetchRequestTopics(name="nope", topic_id=NOWHERE, partition_indexes=[0]),
    ]
    request = OffsetFetchRequest(
        groups=[
            OffsetFetchRequestGroup(group_id="g", topics=topics),
            OffsetFetchRequestGroup(group_id="other", topics=None),
            OffsetFetchRequestGroup(group_id="g", topics=None),
        ]
    )
    named, other, all_of_it = world.call(offset_fetch, 9, version, request).groups
    rows = [
        (topic.name or topic.topic_id, one.committed_offset, one.error_code)
        for topic in named.topics
        for one in topic.partitions
    ]
    if version >= 10:
        assert rows == [(ORDERS, 7, 0), (NOWHERE, -1, errors.UnknownTopicIdError.code)]
    else:
        assert rows == [("orders", 7, 0), ("nope", -1, 0)]
    assert (other.group_id, other.topics, other.error_code) == ("other", [], 0)
    assert [one.committed_offset for topic in all_of_it.topics for one in topic.partitions] == [7]


def test_a_commit_larger_than_a_record_batch_is_refused_as_a_whole() -> None:
    world = GroupWorld()
    rows = [OffsetCommitRequestPartition(partition_index=0, committed_metadata="x" * 4000) for _ in range(3000)]
    request = OffsetCommitRequest(group_id="g", topics=[OffsetCommitRequestTopic(name="orders", partitions=rows)])
    codes = {one.error_code for one in world.call(offset_commit, 8, 9, request).topics[0].partitions}
    assert codes == {errors.InvalidCommitOffsetSizeError.code} and world.groups.machines == {}


@pytest.mark.parametrize("version", range(7))
def test_groups_are_described_and_unknown_ones_are_dead_or_not_found(version: int) -> None:
    world = GroupWorld()
    member = world.member()
    request = DescribeGroupsRequest(groups=["g", "nope", ""], include_authorized_operations=version >= 3)
    group, nope, unnamed = world.call(describe_groups, 15, version, request).groups
    assert (group.group_state, group.protocol_type, group.protocol_data) == ("Stable", "consumer", "range")
    (one,) = group.members
    assert (one.member_id, one.client_id, one.client_host) == (member, "a client", "/127.0.0.1")
    assert bytes(one.member_assignment) == b"all"
    assert nope.group_state == "Dead"
    assert nope.error_code == (errors.GroupIdNotFoundError.code if version >= 6 else 0)
    assert unnamed.error_code == errors.InvalidGroupIdError.code
    if version >= 3:
        assert group.authorized_operations > 0


@pytest.mark.parametrize("version", range(6))
def test_groups_are_listed_by_state_and_type(version: int) -> None:
    world = GroupWorld()
    world.member()
    world.commit(9, group_id="simple")

    def listed(**filters: Any) -> list[str]:
        answer = world.call(list_groups, 16, version, ListGroupsRequest(**filters))
        return [one.group_id for one in answer.groups]

    assert listed() == ["g", "simple"]
    if version >= 4:
        assert listed(states_filter=["stable"]) == ["g"]
    if version >= 5:
        assert listed(types_filter=["Classic"]) == ["g", "simple"] and listed(types_filter=["consumer"]) == []


@pytest.mark.parametrize("version", range(3))
def test_only_groups_without_members_are_deleted(version: int) -> None:
    world = GroupWorld()
    world.member()
    world.commit(9, group_id="simple")
    results = world.call(delete_groups, 42, version, DeleteGroupsRequest(groups_names=["g", "simple", "nope"])).results
    assert [(one.group_id, one.error_code) for one in results] == [("g", 68), ("simple", 0), ("nope", 69)]


def test_single_positions_are_deleted() -> None:
    world = GroupWorld()
    world.commit(9)
    world.commit(9, partition=1)
    topic = OffsetDeleteRequestTopic(
        name="orders", partitions=[OffsetDeleteRequestPartition(partition_index=at) for at in (0, 9)]
    )
    answer = world.call(offset_delete, 47, 0, OffsetDeleteRequest(group_id="g", topics=[topic]))
    assert [one.error_code for one in answer.topics[0].partitions] == [0, 3]
    assert list(world.groups.machines["g"].offsets.committed) == [("orders", 1)]
    assert world.call(offset_delete, 47, 0, OffsetDeleteRequest(group_id="no", topics=[topic])).error_code == 69


def beat(**changes: Any) -> ConsumerGroupHeartbeatRequest:
    fields: dict[str, Any] = {
        "group_id": "c",
        "member_id": "me",
        "member_epoch": 0,
        "rebalance_timeout_ms": 5_000,
        "subscribed_topic_names": ["orders"],
        "topic_partitions": [],
    }
    return ConsumerGroupHeartbeatRequest(**(fields | changes))


@pytest.mark.parametrize("version", (0, 1))
def test_a_member_of_the_new_protocol_is_assigned_by_topic_id_and_described(version: int) -> None:
    world = GroupWorld()
    answer = world.call(consumer_group_heartbeat, 68, version, beat())
    assert (answer.error_code, answer.member_id, answer.member_epoch) == (0, "me", 1)
    assert [(one.topic_id, one.partitions) for one in answer.assignment.topic_partitions] == [(ORDERS, [0, 1, 2])]
    refused = world.call(consumer_group_heartbeat, 68, version, beat(server_assignor="unheard of"))
    assert refused.error_code == errors.UnsupportedAssignorError.code and "uniform" in refused.error_message
    nameless = world.call(consumer_group_heartbeat, 68, version, beat(member_id=""))
    assert nameless.error_code == (errors.InvalidRequestError.code if version else 0)
    request = ConsumerGroupDescribeRequest(group_ids=["c", "nope"], include_authorized_operations=True)
    described, nope = world.call(consumer_group_describe, 69, version, request).groups
    assert described.members[0].assignment.topic_partitions[0].topic_name == "orders"
    assert (described.assignor_name, nope.error_code) == ("uniform", errors.GroupIdNotFoundError.code)
    classic = world.call(describe_groups, 15, 5, DescribeGroupsRequest(groups=["c"])).groups[0]
    assert classic.group_state == "Dead", "the old request does not know groups of the new protocol"
