"""The machine of a KIP-848 member: no sockets."""

from __future__ import annotations

import random

import pytest

from logeion.client.consumer_membership import ConsumerMembership
from logeion.client.positions import TopicPartition
from logeion.errors import (
    FencedMemberEpochError,
    GroupAuthorizationFailedError,
    NotCoordinatorError,
    StaleMemberEpochError,
    UnknownMemberIdError,
)
from logeion.wire.apis import (
    ConsumerGroupHeartbeatAssignment,
    ConsumerGroupHeartbeatResponse,
    ConsumerGroupHeartbeatTopicPartitions,
)

T_ID, NAMES = "a" * 32, {"a" * 32: "t"}


def tps(*indexes: int) -> list[TopicPartition]:
    return [TopicPartition("t", index) for index in indexes]


def answer(epoch: int, *indexes: int, silent: bool = False) -> ConsumerGroupHeartbeatResponse:
    rows = [ConsumerGroupHeartbeatTopicPartitions(topic_id=T_ID, partitions=list(indexes))] if indexes else []
    return ConsumerGroupHeartbeatResponse(
        member_id="m",
        member_epoch=epoch,
        heartbeat_interval_ms=500,
        assignment=None if silent else ConsumerGroupHeartbeatAssignment(topic_partitions=rows),
    )


def joined(*indexes: int) -> ConsumerMembership:
    member = ConsumerMembership("g", ["t"], member_id="m")
    member.heartbeat()
    member.answered(answer(1, *indexes))
    change = member.change(NAMES)
    member.taken(change.added)
    return member


def test_the_first_heartbeat_says_everything_and_the_next_nothing() -> None:
    member = ConsumerMembership("g", ["t"], member_id="m", instance_id="i", assignor="uniform")
    first = member.heartbeat()
    assert (first.member_epoch, first.subscribed_topic_names, first.topic_partitions) == (0, ["t"], [])
    assert (first.instance_id, first.server_assignor, first.rebalance_timeout_ms) == ("i", "uniform", 300_000)
    assert not member.stable
    member.answered(answer(3, silent=True))
    assert member.stable and member.heartbeat_s == 0.5
    later = member.heartbeat()
    assert (later.member_epoch, later.subscribed_topic_names, later.topic_partitions) == (3, None, None)


def test_what_is_let_go_is_reported_before_anything_else_is_read() -> None:
    member = joined(0, 1, 2)
    assert member.owned == tps(0, 1, 2)
    told = member.heartbeat().topic_partitions
    assert told is not None and sorted(told[0].partitions) == [0, 1, 2]
    member.answered(answer(1, 0))
    assert member.change(NAMES).revoked == tps(1, 2)
    assert member.heartbeat().topic_partitions is None, "still in hand: nothing new to tell"
    member.released(tps(1, 2))
    told = member.heartbeat().topic_partitions
    assert told is not None and told[0].partitions == [0]


def test_nothing_in_hand_is_told_too() -> None:
    member = joined(0)
    member.heartbeat()
    member.answered(answer(2))
    member.released(member.change(NAMES).revoked)
    assert member.heartbeat().topic_partitions == []
    assert member.heartbeat().topic_partitions is None


def test_a_heartbeat_that_may_not_have_arrived_is_said_again() -> None:
    member = joined(0)
    first = member.heartbeat().topic_partitions
    member.unheard()
    assert member.heartbeat().topic_partitions == first


def test_a_topic_without_a_name_waits_until_it_has_one() -> None:
    member = ConsumerMembership("g", ["t"], member_id="m")
    member.heartbeat()
    member.answered(answer(1, 0))
    assert member.unknown_ids({}) and member.change({}).added == []
    assert not member.unknown_ids(NAMES) and member.change(NAMES).added == tps(0)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (FencedMemberEpochError("x"), "lost"),
        (UnknownMemberIdError("x"), "lost"),
        (StaleMemberEpochError("x"), "behind"),
        (NotCoordinatorError("x"), "elsewhere"),
        (GroupAuthorizationFailedError("x"), "fatal"),
    ],
)
def test_what_a_refusal_means(error: Exception, meaning: str) -> None:
    member = joined(0)
    assert member.refused(error) == meaning  # type: ignore[arg-type]
    if meaning == "lost":
        assert member.owned == [] and not member.stable and member.heartbeat().topic_partitions == []
    else:
        assert member.owned == tps(0)


def test_leaving() -> None:
    assert ConsumerMembership("g", ["t"], member_id="m").leave() is None
    leave = joined(0).leave()
    assert leave is not None and leave.member_epoch == -1
    member = joined(0)
    member.instance_id = "i"
    leave = member.leave()
    assert leave is not None and (leave.member_epoch, leave.instance_id) == (-2, "i")


def test_two_members_never_hold_a_partition_together() -> None:
    """A coordinator that gives a partition only once nobody reports it, against random targets and lost answers."""
    for seed in range(200):
        dice = random.Random(seed)
        members = [ConsumerMembership("g", ["t"], member_id=str(at)) for at in range(2)]
        reported: list[set[int]] = [set(), set()]
        target: list[set[int]] = [set(), set()]
        for step in range(160):
            if step % 10 == 0 and step < 100:
                target[0] = {index for index in range(6) if dice.random() < 0.5}
                target[1] = set(range(6)) - target[0]
            at = dice.randrange(2)
            member = members[at]
            if step < 110 and dice.random() < 0.03:
                member.forget()  # it was gone for too long
                reported[at] = set()
            request = member.heartbeat()
            if step < 110 and dice.random() < 0.1:
                member.unheard()
                continue
            if request.topic_partitions is not None:
                reported[at] = {index for row in request.topic_partitions for index in row.partitions}
            free = target[at] - reported[1 - at]
            reported[at] |= free  # promised: the other cannot have them from now on
            member.answered(answer(step + 1, *sorted(free)))
            change = member.change(NAMES)
            member.released(change.revoked)
            member.taken(change.added)
            held = [{tp.partition for tp in one.owned} for one in members]
            assert not held[0] & held[1], (seed, step, held)
        assert held[0] | held[1] == set(range(6)), (seed, held, target)
