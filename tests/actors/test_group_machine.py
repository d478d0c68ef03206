"""What one group answers, request by request: Kafka's rules, each by its KIP."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest

from logeion.actors.coordinator.assignors import range_, uniform
from logeion.actors.coordinator.classic import subscribed_topics
from logeion.actors.coordinator.machine import GroupMachine
from logeion.actors.coordinator.records import GroupRecord, decode, encode
from logeion.actors.coordinator.step import Now, Settings, Step
from logeion.actors.messages import (
    CommitOffsets,
    ConsumerHeartbeat,
    DeleteGroup,
    DeleteOffsets,
    DescribeGroup,
    FetchOffsets,
    GroupProtocol,
    HeartbeatGroup,
    JoinGroup,
    LeaveGroup,
    LeavingMember,
    Message,
    OffsetToCommit,
    SyncGroup,
    TopicPartitions,
)
from logeion.wire import errors

TOPIC_ID = "0" * 31 + "1"


def subscription(*topics: str) -> bytes:
    names = b"".join(struct.pack(">h", len(t)) + t.encode() for t in topics)
    return struct.pack(">hi", 0, len(topics)) + names + struct.pack(">i", -1)


class Driver:
    """The machine with a clock, a log and the answers by token."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.machine = GroupMachine("g", self.settings)
        self.machine.topics = {"t": (TOPIC_ID, 4)}
        self.time = 0.0
        self.tokens = itertools.count(1)
        self.answers: dict[int, Any] = {}
        self.log: list[GroupRecord] = []

    def now(self) -> Now:
        return Now(self.time, int(self.time * 1000) + 1_000_000)

    def take(self, step: Step) -> None:
        self.log += [decode(*encode(r)) for r in step.records]
        for token, reply in step.replies:
            assert token not in self.answers, "answered twice"
            self.answers[token] = reply

    def send(self, request: Message) -> int:
        token = next(self.tokens)
        self.take(self.machine.handle(token, request, self.now(), f"id-{token}"))  # type: ignore[arg-type]
        return token

    def ask(self, request: Message) -> Any:
        return self.answers[self.send(request)]

    def wait(self, seconds: float) -> None:
        until = self.time + seconds
        while self.machine.deadline <= until:
            self.time = max(self.time, self.machine.deadline)
            self.take(self.machine.elapsed(self.now()))
        self.time = until

    def reborn(self) -> Driver:
        other = Driver()
        other.machine = GroupMachine("g", self.settings)
        other.machine.topics = self.machine.topics
        other.time, other.log = self.time, list(self.log)
        for record in self.log:
            other.machine.replay(record)
        other.machine.loaded(other.now())
        return other

    def join(self, member_id: str = "", **changes: Any) -> int:
        request: dict[str, Any] = {
            "group": "g",
            "member_id": member_id,
            "instance_id": None,
            "client_id": "c",
            "client_host": "/127.0.0.1",
            "protocol_type": "consumer",
            "protocols": [GroupProtocol(name="range", metadata=subscription("t"))],
            "session_timeout_ms": 10_000,
            "rebalance_timeout_ms": 20_000,
            "require_member_id": False,
        }
        return self.send(JoinGroup(**(request | changes)))

    def stable(self, *names: str, **changes: Any) -> list[str]:
        """A group of this many members, settled; their ids."""
        members = [self.answers[self.join(**changes)].member_id]
        for _ in names[1:]:
            new = self.join(**changes)
            tokens = [new] + [self.join(m, **changes) for m in members]
            members = [self.answers[t].member_id for t in tokens]
        group = self.machine.membership
        leader = group.leader  # type: ignore[union-attr]
        shares = {m: m.encode() for m in members}
        for member in [m for m in members if m != leader] + [leader]:
            self.send(SyncGroup(group="g", generation=group.generation, member_id=member, assignments=shares))  # type: ignore[union-attr]
        assert self.ask(DescribeGroup(group="g")).state == "Stable"
        return members

    @property
    def generation(self) -> int:
        return self.machine.membership.generation  # type: ignore[union-attr]


def test_a_lone_member_leads_its_generation_and_gets_what_it_assigned() -> None:
    group = Driver()
    joined = group.answers[group.join()]
    assert (joined.code, joined.generation, joined.leader) == (0, 1, joined.member_id)
    synced = group.ask(
        SyncGroup(group="g", generation=1, member_id=joined.member_id, assignments={joined.member_id: b"mine"})
    )
    assert (synced.code, synced.assignment) == (0, b"mine")


def test_an_unknown_member_is_first_given_its_id() -> None:
    group = Driver()
    first = group.answers[group.join(require_member_id=True)]
    assert first.code == errors.MemberIdRequiredError.code and first.member_id
    assert group.answers[group.join(first.member_id)].code == 0


def test_an_id_nobody_came_back_for_is_forgotten() -> None:
    group = Driver()
    first = group.answers[group.join(require_member_id=True)]
    group.wait(11)
    assert group.answers[group.join(first.member_id)].code == errors.UnknownMemberIdError.code


def test_a_second_member_makes_the_first_join_again() -> None:
    group = Driver()
    (first,) = group.stable("a")
    second = group.join()
    assert second not in group.answers
    beat = group.ask(HeartbeatGroup(group="g", generation=1, member_id=first))
    assert beat.code == errors.RebalanceInProgressError.code
    again = group.join(first)
    assert group.answers[again].generation == group.answers[second].generation == 2
    assert len(group.answers[again].members) == 2 and not group.answers[second].members


def test_a_member_that_does_not_come_back_is_out_when_the_rebalance_times_out() -> None:
    group = Driver()
    group.stable("a", "b", session_timeout_ms=60_000)
    third = group.join(session_timeout_ms=60_000)
    group.wait(21)
    assert group.answers[third].code == 0 and len(group.answers[third].members) == 1


def test_a_silent_member_lapses_and_the_others_rebalance() -> None:
    group = Driver()
    first, second = group.stable("a", "b")
    for _ in range(3):
        group.wait(4)
        code = group.ask(HeartbeatGroup(group="g", generation=group.generation, member_id=first)).code
    assert code == errors.RebalanceInProgressError.code
    gone = group.ask(HeartbeatGroup(group="g", generation=group.generation, member_id=second)).code
    assert gone == errors.UnknownMemberIdError.code


def test_a_leader_that_never_syncs_loses_its_place() -> None:
    group = Driver()
    first = group.answers[group.join()].member_id
    second = group.join()
    group.join(first)
    follower = group.answers[second].member_id
    parked = group.send(SyncGroup(group="g", generation=2, member_id=follower))
    group.wait(20.5)
    assert group.answers[parked].code == errors.RebalanceInProgressError.code
    assert group.ask(HeartbeatGroup(group="g", generation=2, member_id=first)).code == errors.UnknownMemberIdError.code


def test_leaving_tells_the_others_at_once() -> None:
    group = Driver()
    first, second = group.stable("a", "b")
    left = group.ask(LeaveGroup(group="g", members=[LeavingMember(member_id=second), LeavingMember(member_id="x")]))
    assert [m.code for m in left.members] == [0, errors.UnknownMemberIdError.code]
    code = group.ask(HeartbeatGroup(group="g", generation=group.generation, member_id=first)).code
    assert code == errors.RebalanceInProgressError.code


def test_a_static_member_comes_back_without_a_rebalance_and_fences_its_old_self() -> None:
    group = Driver()
    (old,) = group.stable("a", instance_id="i")
    back = group.answers[group.join(instance_id="i", can_skip_assignment=True)]
    assert (back.code, back.generation, back.skip_assignment) == (0, 1, True)
    assert back.member_id != old
    fenced = group.ask(HeartbeatGroup(group="g", generation=1, member_id=old, instance_id="i")).code
    assert fenced == errors.FencedInstanceIdError.code
    synced = group.ask(SyncGroup(group="g", generation=1, member_id=back.member_id, instance_id="i"))
    assert synced.assignment == old.encode()


@pytest.mark.parametrize(("now", "generation"), [(subscription("t") + b"owns nothing", 1), (subscription("u"), 2)])
def test_a_static_member_that_comes_back_moves_others_only_if_it_wants_other_topics(
    now: bytes, generation: int
) -> None:
    group = Driver()
    group.stable("a", instance_id="i")
    protocols = [GroupProtocol(name="range", metadata=now)]
    assert group.answers[group.join(instance_id="i", protocols=protocols)].generation == generation


def test_a_static_member_is_removed_by_its_instance_alone() -> None:
    group = Driver()
    group.stable("a", instance_id="i")
    left = group.ask(LeaveGroup(group="g", members=[LeavingMember(member_id="", instance_id="i")]))
    assert [m.code for m in left.members] == [0]
    assert group.ask(DescribeGroup(group="g")).state == "Empty"


def test_the_protocol_all_support_and_most_prefer_wins() -> None:
    group = Driver()
    a = [GroupProtocol(name="sticky", metadata=b""), GroupProtocol(name="range", metadata=b"")]
    b = [GroupProtocol(name="range", metadata=b"")]
    first = group.answers[group.join(protocols=a)].member_id
    second = group.join(protocols=b)
    group.join(first, protocols=a)
    assert group.answers[second].protocol == "range"
    refused = group.join(protocols=[GroupProtocol(name="roundrobin", metadata=b"")])
    assert group.answers[refused].code == errors.InconsistentGroupProtocolError.code


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"session_timeout_ms": 5}, errors.InvalidSessionTimeoutError),
        ({"protocols": []}, errors.InconsistentGroupProtocolError),
        ({"protocol_type": ""}, errors.InconsistentGroupProtocolError),
        ({"member_id": "nobody"}, errors.UnknownMemberIdError),
    ],
)
def test_a_bad_join_is_refused_and_leaves_no_trace(changes: dict[str, Any], error: type[errors.KafkaError]) -> None:
    group = Driver()
    assert group.answers[group.join(**changes)].code == error.code
    assert not group.log and group.machine.idle


def test_a_full_group_takes_nobody_else() -> None:
    group = Driver(max_size=1)
    group.stable("a")
    assert group.answers[group.join()].code == errors.GroupMaxSizeReachedError.code


def test_the_first_rebalance_gathers_members_for_the_initial_delay() -> None:
    group = Driver(initial_rebalance_delay_ms=3_000)
    first = group.join()
    group.wait(2)
    second = group.join()
    assert first not in group.answers
    group.wait(5)
    assert group.answers[first].generation == group.answers[second].generation == 1


def test_commits_need_the_generation_they_claim() -> None:
    group = Driver()
    (member,) = group.stable("a")
    offsets = [OffsetToCommit(topic="t", partition=0, offset=7)]

    def commit(generation: int, member_id: str) -> int:
        request = CommitOffsets(group="g", generation=generation, member_id=member_id, offsets=offsets)
        return int(group.ask(request).code)

    assert commit(1, member) == 0
    assert commit(0, member) == errors.IllegalGenerationError.code
    assert commit(1, "nobody") == errors.UnknownMemberIdError.code
    assert commit(-1, "") == errors.UnknownMemberIdError.code
    assert group.ask(FetchOffsets(group="g")).offsets[0].offset == 7


def test_a_simple_consumer_commits_to_a_group_without_members() -> None:
    group = Driver()
    offsets = [OffsetToCommit(topic="t", partition=0, offset=7, metadata="x" * 5000)]
    answer = group.ask(CommitOffsets(group="g", generation=-1, member_id="", offsets=offsets))
    assert answer.codes == [errors.OffsetMetadataTooLargeError.code] and not group.log
    offsets = [OffsetToCommit(topic="t", partition=0, offset=7, leader_epoch=3, metadata="here")]
    assert group.ask(CommitOffsets(group="g", generation=-1, member_id="", offsets=offsets)).codes == [0]
    (found,) = group.reborn().ask(FetchOffsets(group="g", partitions=[("t", 0)])).offsets
    assert (found.offset, found.leader_epoch, found.metadata) == (7, 3, "here")


def test_a_killed_coordinator_comes_back_with_its_members_and_generation() -> None:
    group = Driver()
    first, second = group.stable("a", "b")
    back = group.reborn()
    for member in (first, second):
        assert back.ask(HeartbeatGroup(group="g", generation=group.generation, member_id=member)).code == 0
    synced = back.ask(SyncGroup(group="g", generation=group.generation, member_id=second))
    assert synced.assignment == second.encode()


def test_a_coordinator_killed_before_the_assignment_takes_it_after() -> None:
    group = Driver()
    joined = group.answers[group.join()]
    back = group.reborn()
    synced = back.ask(
        SyncGroup(group="g", generation=1, member_id=joined.member_id, assignments={joined.member_id: b"x"})
    )
    assert (synced.code, synced.assignment) == (0, b"x")


def test_only_an_empty_group_is_deleted_and_its_offsets_with_it() -> None:
    group = Driver()
    assert group.ask(DeleteGroup(group="g")).code == errors.GroupIdNotFoundError.code
    (member,) = group.stable("a")
    assert group.ask(DeleteGroup(group="g")).code == errors.NonEmptyGroupError.code
    group.ask(LeaveGroup(group="g", members=[LeavingMember(member_id=member)]))
    assert group.ask(DeleteGroup(group="g")).code == 0
    assert not group.reborn().machine.exists


def test_offsets_of_a_subscribed_topic_are_not_deleted() -> None:
    group = Driver()
    (member,) = group.stable("a")
    offsets = [OffsetToCommit(topic=t, partition=0, offset=1) for t in ("t", "old")]
    group.ask(CommitOffsets(group="g", generation=1, member_id=member, offsets=offsets))
    deleted = group.ask(DeleteOffsets(group="g", partitions=[("t", 0), ("old", 0)]))
    assert deleted.codes == [errors.GroupSubscribedToTopicError.code, 0]
    assert [o.topic for o in group.ask(FetchOffsets(group="g")).offsets] == ["t"]


def test_offsets_expire_only_after_the_group_was_empty_for_the_retention() -> None:
    group = Driver(offsets_retention_ms=3_600_000)
    (member,) = group.stable("a", session_timeout_ms=1_800_000)
    group.machine.loaded(group.now())
    offsets = [OffsetToCommit(topic="t", partition=0, offset=1)]
    group.ask(CommitOffsets(group="g", generation=1, member_id=member, offsets=offsets))
    for _ in range(5):
        group.wait(1500)
        group.ask(HeartbeatGroup(group="g", generation=1, member_id=member))
    assert group.machine.offsets.committed
    group.ask(LeaveGroup(group="g", members=[LeavingMember(member_id=member)]))
    group.wait(3000)
    assert group.machine.offsets.committed
    group.wait(2000)
    assert not group.machine.exists


def test_offsets_of_a_deleted_topic_go_with_it() -> None:
    group = Driver()
    offsets = [
        OffsetToCommit(topic="t", partition=0, offset=1, topic_id=TOPIC_ID),
        OffsetToCommit(topic="t", partition=1, offset=2, topic_id="f" * 32),
    ]
    group.ask(CommitOffsets(group="g", generation=-1, member_id="", offsets=offsets))
    group.take(group.machine.topics_gone([TOPIC_ID]))
    assert list(group.machine.offsets.committed) == [("t", 1)], "the new topic of that name keeps its position"
    group.take(group.reborn().machine.topics_gone(["f" * 32]))


@pytest.mark.parametrize("bad", [b"", b"\0", b"\0\0\0\0\0\5\0\1a", b"\0\0\x7f\xff\xff\xff", b"\0\0\xff\xff\xff\xff"])
def test_a_malformed_subscription_is_seen_and_hurts_nobody(bad: bytes) -> None:
    with pytest.raises(ValueError):
        subscribed_topics(bad)
    group = Driver()
    joined = group.answers[group.join(protocols=[GroupProtocol(name="range", metadata=bad)])]
    assert joined.code == 0
    assert group.machine.membership.subscribed() is None  # type: ignore[union-attr]


# KIP-848 ------------------------------------------------------------------------------------------------------------


def beat(member: str, epoch: int, owned: list[int] | None = None, **changes: Any) -> ConsumerHeartbeat:
    fields: dict[str, Any] = {
        "group": "g",
        "member_id": member,
        "member_epoch": epoch,
        "client_id": "c",
        "client_host": "/h",
    }
    if epoch == 0:
        fields |= {"rebalance_timeout_ms": 10_000, "subscribed_topics": ["t"], "owned": []}
    if owned is not None:
        fields["owned"] = [TopicPartitions(topic_id=TOPIC_ID, partitions=owned)]
    return ConsumerHeartbeat(**(fields | changes))


def given(answer: Any) -> list[int] | None:
    return None if answer.assignment is None else [p for t in answer.assignment for p in t.partitions]


def test_a_partition_changes_hands_only_after_its_owner_gave_it_up() -> None:
    group = Driver()
    first = group.ask(beat("a", 0))
    assert (first.member_epoch, given(first)) == (1, [0, 1, 2, 3])
    second = group.ask(beat("b", 0))
    assert (second.member_epoch, given(second)) == (2, [])
    told = group.ask(beat("a", 1))
    assert told.member_epoch == 1 and len(given(told) or []) == 2
    kept = given(told) or []
    assert given(group.ask(beat("b", 2))) is None
    assert group.ask(beat("a", 1, kept)).member_epoch == 2
    assert sorted((given(group.ask(beat("b", 2))) or []) + kept) == [0, 1, 2, 3]
    assert group.ask(DescribeGroup(group="g")).state == "Stable"


def test_a_member_that_does_not_give_up_in_time_is_fenced() -> None:
    group = Driver(consumer_session_timeout_ms=100_000)
    group.ask(beat("a", 0))
    group.ask(beat("b", 0))
    group.ask(beat("a", 1))
    group.wait(11)
    assert group.ask(beat("a", 1)).code == errors.UnknownMemberIdError.code
    assert given(group.ask(beat("b", 2))) == [0, 1, 2, 3]


def test_old_and_future_member_epochs_are_fenced_but_a_lost_answer_is_repeated() -> None:
    group = Driver()
    group.ask(beat("a", 0))
    group.ask(beat("b", 0))
    told = given(group.ask(beat("a", 1)))
    group.ask(beat("a", 1, told))
    assert group.ask(beat("a", 1, told)).member_epoch == 2
    assert group.ask(beat("a", 9)).code == errors.FencedMemberEpochError.code
    assert group.ask(beat("b", 1)).code == errors.FencedMemberEpochError.code


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (beat("a", 0, assignor="magic"), errors.UnsupportedAssignorError),
        (beat("a", 0, rebalance_timeout_ms=-1), errors.InvalidRequestError),
        (beat("a", 0, subscribed_topics=[]), errors.InvalidRequestError),
        (beat("a", 0, subscribed_regex="("), errors.InvalidRegularExpressionError),
        (beat("a", 5), errors.UnknownMemberIdError),
        (beat("a", -3), errors.InvalidRequestError),
        (beat("a", -2), errors.InvalidRequestError),
    ],
)
def test_a_bad_heartbeat_is_refused(request_: ConsumerHeartbeat, error: type[errors.KafkaError]) -> None:
    assert Driver().ask(request_).code == error.code


def test_a_static_consumer_that_left_for_a_while_gets_its_partitions_back() -> None:
    group = Driver()
    group.ask(beat("a", 0, instance_id="i"))
    assert group.ask(beat("b", 0, instance_id="i")).code == errors.UnreleasedInstanceIdError.code
    assert group.ask(beat("a", -2, instance_id="i")).member_epoch == -2
    back = group.ask(beat("b", 0, instance_id="i"))
    assert back.code == 0 and given(back) == [0, 1, 2, 3]


def test_new_partitions_reach_the_members_of_a_pattern() -> None:
    group = Driver()
    group.ask(beat("a", 0, subscribed_topics=[], subscribed_regex="t.*"))
    other = "0" * 31 + "2"
    group.take(group.machine.topics_changed({"t": (TOPIC_ID, 4), "tea": (other, 1), "x": ("f" * 32, 1)}, group.now()))
    answer = group.ask(beat("a", 1))
    assert {(t.topic_id, tuple(t.partitions)) for t in answer.assignment} == {(TOPIC_ID, (0, 1, 2, 3)), (other, (0,))}


def test_commits_of_the_new_protocol_carry_the_member_epoch() -> None:
    group = Driver()
    group.ask(beat("a", 0))
    offsets = [OffsetToCommit(topic="t", partition=0, offset=3)]
    assert group.ask(CommitOffsets(group="g", generation=1, member_id="a", offsets=offsets)).codes == [0]
    stale = group.ask(CommitOffsets(group="g", generation=0, member_id="a", offsets=offsets)).code
    assert stale == errors.StaleMemberEpochError.code


def test_a_killed_coordinator_of_the_new_protocol_comes_back_whole() -> None:
    group = Driver()
    group.ask(beat("a", 0))
    group.ask(beat("b", 0))
    group.ask(beat("a", 1))
    back = group.reborn()
    before, after = (g.ask(DescribeGroup(group="g")) for g in (group, back))
    assert before == after


def test_a_group_changes_its_protocol_when_it_is_empty_and_its_generations_go_on() -> None:
    group = Driver()
    (member,) = group.stable("a")
    assert group.ask(beat("b", 0)).code == errors.GroupIdNotFoundError.code
    group.ask(LeaveGroup(group="g", members=[LeavingMember(member_id=member)]))
    before = group.generation
    assert group.ask(beat("b", 0)).member_epoch == before + 1
    refused = group.answers[group.join()].code
    assert refused == errors.InconsistentGroupProtocolError.code
    group.ask(beat("b", -1))
    assert group.answers[group.join()].generation > before + 1
    assert group.reborn().ask(DescribeGroup(group="g")).state in ("CompletingRebalance", "PreparingRebalance")


@pytest.mark.parametrize("assignor", [uniform, range_])
def test_every_partition_has_one_owner_and_stays_where_it_may(assignor: Any) -> None:
    topics = {"x": 5, "y": 3}
    everybody = {m: {"x", "y"} for m in "abc"}
    first = assignor(everybody, topics, {})
    owned = sorted(p for share in first.values() for p in share)
    assert owned == [("x", i) for i in range(5)] + [("y", i) for i in range(3)]
    again = assignor(everybody, topics, first)
    assert again == first
    fewer = assignor({m: {"x", "y"} for m in "ab"}, topics, first)
    assert sorted(p for share in fewer.values() for p in share) == owned


def test_uniform_moves_no_more_than_evenness_needs() -> None:
    first = uniform({m: {"x"} for m in "ab"}, {"x": 6}, {})
    second = uniform({m: {"x"} for m in "abc"}, {"x": 6}, first)
    assert {m: len(share) for m, share in second.items()} == {"a": 2, "b": 2, "c": 2}
    assert all(second[m] <= first[m] for m in "ab")
