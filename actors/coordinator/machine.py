"""One group, whichever protocol its members speak: the coordinator's machine. Pure.

``handle(token, request, now, fresh_id) -> Step`` and ``elapsed(now) -> Step`` while it serves, ``replay(record)`` while
it loads (then ``loaded(now)``). See ``Step`` for what the shell owes: records atomically, answers in order and only
after every record made before them is committed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import assert_never

from logeion.wire import errors

from ..messages import (
    CommitOffsets,
    ConsumerHeartbeat,
    ConsumerHeartbeatAnswered,
    DeleteGroup,
    DeleteOffsets,
    DescribeGroup,
    FetchOffsets,
    GroupAnswered,
    GroupDescribed,
    GroupEntry,
    GroupJoined,
    GroupLeft,
    GroupSynced,
    HeartbeatGroup,
    JoinGroup,
    LeaveGroup,
    LeavingMember,
    OffsetsCommitted,
    OffsetsDeleted,
    OffsetsFetched,
    SyncGroup,
)
from .classic import ClassicGroup
from .classic import State as ClassicState
from .consumer import ConsumerGroup, refusal
from .offsets import Offsets
from .records import ClassicValue, ConsumerValue, GroupKey, GroupRecord, MemberKey, MemberValue, OffsetKey
from .step import Now, Settings, Step, Token

Request = (
    JoinGroup
    | SyncGroup
    | HeartbeatGroup
    | LeaveGroup
    | CommitOffsets
    | FetchOffsets
    | DescribeGroup
    | ConsumerHeartbeat
    | DeleteGroup
    | DeleteOffsets
)

OFFSETS_CHECK_MS = 600_000
"""How often retention is looked at, as Kafka's offsets.retention.check.interval.ms."""


class GroupMachine:
    """The group's membership (none, classic or consumer) and its offsets."""

    def __init__(self, group: str, settings: Settings) -> None:
        self.group = group
        self.settings = settings
        self.membership: ClassicGroup | ConsumerGroup | None = None
        self.offsets: Offsets = Offsets(group, settings)
        self.topics: Mapping[str, tuple[str, int]] = {}
        """Name to (id, partitions) of every topic, from the metadata image; ``topics_changed`` replaces it."""
        self._check_at = math.inf

    @property
    def exists(self) -> bool:
        """Is there anything of this group at all?"""
        return self.membership is not None or bool(self.offsets.committed)

    @property
    def idle(self) -> bool:
        """Has it neither members nor promised ids? Then its actor may go; the log has the rest."""
        group = self.membership
        return group is None or not (group.members or (isinstance(group, ClassicGroup) and group.pending))

    @property
    def deadline(self) -> float:
        """Not later than the next moment at which ``elapsed`` has something to do; infinite if never."""
        group = math.inf if self.membership is None else self.membership.deadline
        return min(group, self._check_at)

    def handle(self, token: Token, request: Request, now: Now, fresh_id: str) -> Step:
        """``fresh_id`` is an id nobody has, for a member that may need one."""
        step = Step()
        match request:
            case JoinGroup():
                self._join(token, request, now, fresh_id, step)
            case ConsumerHeartbeat():
                self._consumer_heartbeat(token, request, now, fresh_id, step)
            case SyncGroup():
                if isinstance(self.membership, ClassicGroup):
                    self.membership.sync(token, request, now, step)
                else:
                    step.reply(token, GroupSynced(code=errors.UnknownMemberIdError.code))
            case HeartbeatGroup():
                if isinstance(self.membership, ClassicGroup):
                    self.membership.heartbeat(token, request, now, step)
                else:
                    step.reply(token, GroupAnswered(code=errors.UnknownMemberIdError.code))
            case LeaveGroup():
                self._leave(token, request, now, step)
            case CommitOffsets():
                self._commit(token, request, now, step)
            case FetchOffsets():
                step.reply(token, self.fetch(request))
            case DescribeGroup():
                step.reply(token, self.describe())
            case DeleteGroup():
                self._delete(token, step)
            case DeleteOffsets():
                self._delete_offsets(token, request, step)
            case _:
                assert_never(request)
        return step

    def elapsed(self, now: Now) -> Step:
        """Time has passed."""
        step = Step()
        if isinstance(self.membership, ClassicGroup):
            self.membership.elapsed(now, step)
        elif self.membership is not None:
            self.membership.elapsed(self.topics, now, step)
        if now.mono >= self._check_at:
            self._check_at = now.mono + OFFSETS_CHECK_MS / 1000
            self._expire(now, step)
        return step

    def expire(self, now: Now) -> Step:
        """Drop what is past its retention now; with its last position an empty group goes altogether."""
        step = Step()
        self._expire(now, step)
        return step

    def topics_gone(self, topic_ids: Collection[str]) -> Step:
        """These topics were deleted; their positions go with them."""
        return Step(records=self.offsets.drop(self.offsets.of_topics(topic_ids)))

    def topics_changed(self, topics: Mapping[str, tuple[str, int]], now: Now) -> Step:
        """The metadata image moved on: what it has now. Only a consumer group (KIP-848) needs to know."""
        step = Step()
        self.topics = topics
        if isinstance(self.membership, ConsumerGroup):
            self.membership.topics_changed(topics, now, step)
        return step

    def replay(self, record: GroupRecord) -> None:
        """Take over one record of the log."""
        match record.key:
            case OffsetKey():
                self.offsets.apply(record)
            case GroupKey():
                self._replay_group(record.value)
            case MemberKey(member_id=member_id):
                assert record.value is None or isinstance(record.value, MemberValue)
                if record.value is None and not isinstance(self.membership, ConsumerGroup):
                    return
                self._consumer().replay_member(member_id, record.value)
            case _:
                assert_never(record.key)

    def _replay_group(self, value: object) -> None:
        match value:
            case None:
                self.membership = None
            case ClassicValue():
                if not isinstance(self.membership, ClassicGroup):
                    self.membership = ClassicGroup(self.group, self.settings)
                self.membership.replay(value)
            case ConsumerValue():
                self._consumer().replay(value)
            case _:
                raise AssertionError(f"a group's record cannot hold {type(value).__name__}")

    def _consumer(self) -> ConsumerGroup:
        if not isinstance(self.membership, ConsumerGroup):
            self.membership = ConsumerGroup(self.group, self.settings)
        return self.membership

    def loaded(self, now: Now) -> None:
        """The log is read to its end: the clocks start."""
        self._check_at = now.mono + OFFSETS_CHECK_MS / 1000
        if self.membership is not None:
            self.membership.loaded(now)

    # Requests -------------------------------------------------------------------------------------------------------

    def _join(self, token: Token, request: JoinGroup, now: Now, fresh_id: str, step: Step) -> None:
        group = self.membership
        if isinstance(group, ConsumerGroup):
            if group.members:
                code = errors.InconsistentGroupProtocolError.code
                step.reply(token, GroupJoined(code=code, member_id=request.member_id))
                return
            # An empty group may change its protocol; epochs go on as generations, for generations only grow.
            step.records += group.tombstones()
            classic = ClassicGroup(self.group, self.settings)
            classic.generation = group.group_epoch
            self.membership = group = classic
        elif group is None:
            if request.member_id and request.instance_id is None:
                code = errors.UnknownMemberIdError.code
                step.reply(token, GroupJoined(code=code, member_id=request.member_id))
                return
            self.membership = group = ClassicGroup(self.group, self.settings)
        group.join(token, request, now, fresh_id, step)

    def _consumer_heartbeat(
        self, token: Token, request: ConsumerHeartbeat, now: Now, fresh_id: str, step: Step
    ) -> None:
        refused = refusal(request)
        if refused is not None:
            step.reply(token, ConsumerHeartbeatAnswered(code=refused[0], reason=refused[1]))
            return
        group = self.membership
        if not isinstance(group, ConsumerGroup):
            if isinstance(group, ClassicGroup) and group.state is not ClassicState.EMPTY:
                code, reason = errors.GroupIdNotFoundError.code, f"{self.group} is a classic group with members"
                step.reply(token, ConsumerHeartbeatAnswered(code=code, reason=reason))
                return
            if request.member_epoch != 0:
                code = errors.UnknownMemberIdError.code if group is None else errors.GroupIdNotFoundError.code
                step.reply(token, ConsumerHeartbeatAnswered(code=code, reason=f"{self.group} has no members"))
                return
            epoch = group.generation if group is not None else 0
            self.membership = fresh = ConsumerGroup(self.group, self.settings)
            fresh.group_epoch = fresh.assignment_epoch = epoch
            group = fresh
        group.heartbeat(token, request, self.topics, now, fresh_id, step)

    def _leave(self, token: Token, request: LeaveGroup, now: Now, step: Step) -> None:
        if isinstance(self.membership, ClassicGroup):
            self.membership.leave(token, request, now, step)
            return
        unknown = errors.UnknownMemberIdError.code
        members = [
            LeavingMember(member_id=m.member_id, instance_id=m.instance_id, code=unknown) for m in request.members
        ]
        step.reply(token, GroupLeft(members=members))

    def _commit(self, token: Token, request: CommitOffsets, now: Now, step: Step) -> None:
        match self.membership:
            case None:
                code = 0 if request.generation < 0 else errors.IllegalGenerationError.code
            case ClassicGroup() as classic:
                code = classic.check_commit(request.member_id, request.instance_id, request.generation, now)
            case ConsumerGroup() as consumer:
                code = consumer.check_commit(request.member_id, request.generation)
        if code:
            step.reply(token, OffsetsCommitted(code=code))
            return
        records, codes = self.offsets.commit(request.offsets, now)
        step.records += records
        step.reply(token, OffsetsCommitted(codes=codes))

    def fetch(self, request: FetchOffsets) -> OffsetsFetched:
        """What is committed; a member of a consumer group (KIP-848) is told if it or its epoch is not known."""
        code = 0
        if request.member_id is not None and request.member_epoch >= 0 and isinstance(self.membership, ConsumerGroup):
            code = self.membership.check_commit(request.member_id, request.member_epoch)
        return OffsetsFetched(code=code, offsets=[] if code else self.offsets.fetch(request.partitions))

    def _delete(self, token: Token, step: Step) -> None:
        if not self.exists:
            step.reply(token, GroupAnswered(code=errors.GroupIdNotFoundError.code))
        elif not self.idle:
            step.reply(token, GroupAnswered(code=errors.NonEmptyGroupError.code))
        else:
            self._bury(step)
            step.reply(token, GroupAnswered())

    def _bury(self, step: Step) -> None:
        step.records += self.offsets.drop(list(self.offsets.committed))
        if isinstance(self.membership, ConsumerGroup):
            step.records += self.membership.tombstones()
        elif self.membership is not None:
            step.records.append(GroupRecord(GroupKey(self.group), None))
        self.membership = None

    def _delete_offsets(self, token: Token, request: DeleteOffsets, step: Step) -> None:
        if not self.exists:
            step.reply(token, OffsetsDeleted(code=errors.GroupIdNotFoundError.code))
            return
        subscribed: frozenset[str] | None = frozenset()
        group = self.membership
        if isinstance(group, ClassicGroup) and group.state is not ClassicState.EMPTY:
            if group.protocol_type != "consumer":
                step.reply(token, OffsetsDeleted(code=errors.NonEmptyGroupError.code))
                return
            subscribed = group.subscribed()
        elif isinstance(group, ConsumerGroup):
            subscribed = group.subscribed() if group.members else frozenset()
        in_use = errors.GroupSubscribedToTopicError.code
        codes = [in_use if subscribed is None or topic in subscribed else 0 for topic, _ in request.partitions]
        free = [p for p, code in zip(request.partitions, codes, strict=True) if not code]
        step.records += self.offsets.drop(free)
        step.reply(token, OffsetsDeleted(codes=codes))

    def describe(self) -> GroupDescribed:
        """The group in Kafka's words; an unknown one is Dead."""
        if self.membership is not None:
            return self.membership.describe()
        if self.offsets.committed:
            return GroupDescribed(group=self.group, state=ClassicState.EMPTY.value)
        return GroupDescribed(group=self.group, code=errors.GroupIdNotFoundError.code)

    def entry(self) -> GroupEntry:
        """The group as lists show it."""
        group = self.membership
        if group is None:
            return GroupEntry(group=self.group, state=ClassicState.EMPTY.value if self.exists else "Dead")
        if isinstance(group, ClassicGroup):
            return GroupEntry(group=self.group, state=group.state.value, protocol_type=group.protocol_type)
        return GroupEntry(group=self.group, group_type="consumer", state=group.state, protocol_type="consumer")

    def _expire(self, now: Now, step: Step) -> None:
        group = self.membership
        idle_since: int | None = None
        subscribed: frozenset[str] | None = frozenset()
        if group is None:
            idle_since = 0
        elif self.idle:
            idle_since = group.empty_since_ms
        else:
            subscribed = group.subscribed()
        step.records += self.offsets.drop(self.offsets.expired(now, idle_since_ms=idle_since, subscribed=subscribed))
        if group is not None and self.idle and not self.offsets.committed:
            self._bury(step)
