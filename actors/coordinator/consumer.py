"""One consumer group of the new protocol (KIP-848): the server assigns, members reconcile by heartbeat. Pure.

Three epochs: the *group epoch* grows whenever subscriptions or their topics change, the *assignment epoch* is the
group epoch the target was computed for, and a *member epoch* is the assignment epoch that member has reached. A
partition is given to its new owner only when the old one has said (or has lost the right to say) that it let go.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import msgspec

from logeion.wire import errors

from ..messages import (
    ConsumerHeartbeat,
    ConsumerHeartbeatAnswered,
    DescribedMember,
    GroupDescribed,
    TopicPartitions,
)
from .assignors import ASSIGNORS, DEFAULT, Partitions
from .records import ConsumerValue, GroupKey, GroupRecord, MemberKey, MemberValue
from .step import Now, Settings, Step, Token

JOIN, LEAVE, LEAVE_STATIC = 0, -1, -2
DEFAULT_REBALANCE_TIMEOUT_MS = 300_000


class Member(msgspec.Struct, kw_only=True):
    """One member. ``owned`` is what it may consume, ``revoking`` what it was told to give up and has not yet."""

    member_id: str
    client_id: str
    client_host: str
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = DEFAULT_REBALANCE_TIMEOUT_MS
    subscribed_topics: list[str] = []
    subscribed_regex: str | None = None
    assignor: str | None = None
    epoch: int = 0
    previous_epoch: int = 0
    owned: Partitions = msgspec.field(default_factory=set)
    revoking: Partitions = msgspec.field(default_factory=set)
    told: Partitions | None = None
    """The assignment of the last answer; None: tell it whatever it is."""
    expires: float = math.inf
    revoke_by: float = math.inf
    left: bool = False
    """A static member that left for a while (epoch -2): its place is kept until its session lapses."""


class ConsumerGroup:
    """The machine; ``topics`` maps a topic's name to (id, partition count) and comes from the metadata image."""

    def __init__(self, group: str, settings: Settings) -> None:
        self.group = group
        self.settings = settings
        self.group_epoch: int = 0
        self.assignment_epoch: int = 0
        self.assignor: str = DEFAULT
        self.members: dict[str, Member] = {}
        self.static: dict[str, str] = {}
        self.targets: dict[str, Partitions] = {}
        self.topics: dict[str, tuple[str, int]] = {}
        """The topics, with ids and sizes, that the group epoch stands for."""
        self.empty_since_ms: int = 0
        self.deadline: float = math.inf

    @property
    def state(self) -> str:
        """Kafka's words: Empty, Assigning, Reconciling or Stable."""
        if not self.members:
            return "Empty"
        if self.assignment_epoch < self.group_epoch:
            return "Assigning"
        if all(self._settled(m) for m in self.members.values()):
            return "Stable"
        return "Reconciling"

    def _settled(self, member: Member) -> bool:
        return (
            member.epoch == self.assignment_epoch
            and not member.revoking
            and member.owned == self.targets.get(member.member_id, set())
        )

    # Heartbeat ------------------------------------------------------------------------------------------------------

    def heartbeat(
        self,
        token: Token,
        request: ConsumerHeartbeat,
        known: Mapping[str, tuple[str, int]],
        now: Now,
        fresh_id: str,
        step: Step,
    ) -> None:
        """``known`` is every topic of the metadata image; ``fresh_id`` serves a member that brings no id (v0).

        The request has passed ``refusal``.
        """
        if request.member_epoch in (LEAVE, LEAVE_STATIC):
            self._leave(token, request, known, now, step)
            return
        if request.member_epoch == JOIN:
            answer = self._join(request, now, fresh_id, step)
        else:
            answer = self._check(request)
        if isinstance(answer, ConsumerHeartbeatAnswered):
            step.reply(token, answer)
            return
        member = answer
        before = self._image(member)
        joined = request.member_epoch == JOIN
        changed = self._describe(member, request) or joined
        self._refresh(known, now, step, force=changed)
        self._reconcile(member, request.owned, now)
        member.expires = now.mono + self.settings.consumer_session_timeout_ms / 1000
        self._wake_at(member.expires)
        if joined or self._image(member) != before:
            self._save(member, step)
        full = joined or request.owned is not None or request.subscribed_topics is not None
        assignment = None
        if full or member.told != member.owned:
            member.told = set(member.owned)
            assignment = as_lists(member.owned)
        step.reply(
            token,
            ConsumerHeartbeatAnswered(
                member_id=member.member_id,
                member_epoch=member.epoch,
                heartbeat_interval_ms=self.settings.consumer_heartbeat_interval_ms,
                assignment=assignment,
            ),
        )

    def _join(
        self, request: ConsumerHeartbeat, now: Now, fresh_id: str, step: Step
    ) -> Member | ConsumerHeartbeatAnswered:
        member_id = request.member_id or fresh_id
        if request.instance_id is not None:
            holder = self.static.get(request.instance_id)
            if holder is not None and holder != member_id:
                old = self.members[holder]
                if not old.left:
                    return ConsumerHeartbeatAnswered(
                        code=errors.UnreleasedInstanceIdError.code,
                        reason=f"instance {request.instance_id} is member {holder} and has not left",
                    )
                return self._replace_static(old, member_id, step)
        member = self.members.get(member_id)
        if member is None:
            if len(self.members) >= self.settings.consumer_max_size:
                return ConsumerHeartbeatAnswered(
                    code=errors.GroupMaxSizeReachedError.code,
                    reason=f"the group has {len(self.members)} members, its limit",
                )
            member = Member(member_id=member_id, client_id=request.client_id, client_host=request.client_host)
            member.instance_id = request.instance_id
            self.members[member_id] = member
            if request.instance_id is not None:
                self.static[request.instance_id] = member_id
        else:
            # A known member that joins again has lost its assignment: it is told all of it anew.
            member.revoking, member.revoke_by = set(), math.inf
        member.left = False
        member.told = None
        return member

    def _replace_static(self, old: Member, member_id: str, step: Step) -> Member:
        """A static member is back under a new id: it inherits place and partitions (KIP-848, static membership)."""
        assert old.instance_id is not None
        del self.members[old.member_id]
        step.records.append(GroupRecord(MemberKey(self.group, old.member_id), None))
        self.targets[member_id] = self.targets.pop(old.member_id, set())
        member = msgspec.structs.replace(old, member_id=member_id, left=False, told=None, revoking=set())
        member.epoch = member.previous_epoch = 0
        self.members[member_id] = member
        self.static[old.instance_id] = member_id
        return member

    def _check(self, request: ConsumerHeartbeat) -> Member | ConsumerHeartbeatAnswered:
        member = self.members.get(request.member_id)
        if member is None or member.left:
            return ConsumerHeartbeatAnswered(
                code=errors.UnknownMemberIdError.code, reason=f"{request.member_id} is no member of {self.group}"
            )
        if request.instance_id is not None and self.static.get(request.instance_id) != request.member_id:
            return ConsumerHeartbeatAnswered(
                code=errors.FencedInstanceIdError.code, reason=f"instance {request.instance_id} is another member"
            )
        if request.member_epoch == member.epoch:
            return member
        # The answer that raised the epoch was lost: the member may repeat itself with what it had then.
        if request.member_epoch == member.previous_epoch and (
            request.owned is None or as_set(request.owned) <= member.owned | member.revoking
        ):
            member.told = None
            return member
        return ConsumerHeartbeatAnswered(
            code=errors.FencedMemberEpochError.code,
            reason=f"member epoch {request.member_epoch} is not the member's {member.epoch}",
        )

    def _leave(
        self, token: Token, request: ConsumerHeartbeat, known: Mapping[str, tuple[str, int]], now: Now, step: Step
    ) -> None:
        member_id = request.member_id
        if request.instance_id is not None:
            member_id = self.static.get(request.instance_id, "")
            if member_id and member_id != request.member_id:
                code = errors.FencedInstanceIdError.code
                step.reply(token, ConsumerHeartbeatAnswered(code=code, reason="the instance is another member"))
                return
        member = self.members.get(member_id)
        if member is None:
            code = errors.UnknownMemberIdError.code
            step.reply(token, ConsumerHeartbeatAnswered(code=code, reason=f"{request.member_id} is no member"))
            return
        if request.member_epoch == LEAVE_STATIC:
            member.left = True
        else:
            self._remove(member, now, step)
            self._refresh(known, now, step, force=True)
        step.reply(token, ConsumerHeartbeatAnswered(member_id=member.member_id, member_epoch=request.member_epoch))

    def _remove(self, member: Member, now: Now, step: Step) -> None:
        del self.members[member.member_id]
        self.targets.pop(member.member_id, None)
        if member.instance_id is not None and self.static.get(member.instance_id) == member.member_id:
            del self.static[member.instance_id]
        step.records.append(GroupRecord(MemberKey(self.group, member.member_id), None))
        if not self.members:
            self.empty_since_ms = now.wall_ms

    def _describe(self, member: Member, request: ConsumerHeartbeat) -> bool:
        """Take over what the request says of the member; True if the target may change by it."""
        before = (member.subscribed_topics, member.subscribed_regex, member.assignor, member.rack_id)
        member.client_id, member.client_host = request.client_id, request.client_host
        if request.rebalance_timeout_ms != -1:
            member.rebalance_timeout_ms = request.rebalance_timeout_ms
        if request.subscribed_topics is not None:
            member.subscribed_topics = sorted(set(request.subscribed_topics))
        if request.subscribed_regex is not None:
            member.subscribed_regex = request.subscribed_regex or None
        if request.assignor is not None:
            member.assignor = request.assignor
        if request.rack_id is not None:
            member.rack_id = request.rack_id
        return before != (member.subscribed_topics, member.subscribed_regex, member.assignor, member.rack_id)

    # Target and reconciliation ----------------------------------------------------------------------------------------

    def _refresh(self, known: Mapping[str, tuple[str, int]], now: Now, step: Step, *, force: bool = False) -> None:
        """Raise the group epoch and compute the target anew if members or their topics changed."""
        wanted = {m.member_id: self._subscription(m, known) for m in self.members.values()}
        topics = {name: known[name] for names in wanted.values() for name in names}
        if not force and topics == self.topics:
            return
        self.topics = topics
        self.group_epoch += 1
        self.assignor = self._elect_assignor()
        self.targets = ASSIGNORS[self.assignor](
            {member: {known[name][0] for name in names} for member, names in wanted.items()},
            dict(topics.values()),
            self.targets,
        )
        self.assignment_epoch = self.group_epoch
        step.records.append(GroupRecord(GroupKey(self.group), self._value(now)))

    def topics_changed(self, known: Mapping[str, tuple[str, int]], now: Now, step: Step) -> None:
        """The metadata image moved on: topics came, went or grew."""
        if self.members:
            self._refresh(known, now, step)

    def _subscription(self, member: Member, known: Mapping[str, tuple[str, int]]) -> set[str]:
        names = {name for name in member.subscribed_topics if name in known}
        if member.subscribed_regex:
            pattern = re.compile(member.subscribed_regex)
            names.update(name for name in known if pattern.fullmatch(name))
        return names

    def _elect_assignor(self) -> str:
        votes: dict[str, int] = {}
        for member in self.members.values():
            if member.assignor is not None:
                votes[member.assignor] = votes.get(member.assignor, 0) + 1
        return max(sorted(votes), key=lambda name: votes[name]) if votes else DEFAULT

    def _reconcile(self, member: Member, reported: list[TopicPartitions] | None, now: Now) -> None:
        """Move the member towards its target: first give up, then reach the epoch, then take what is free."""
        if member.revoking:
            if reported is None or as_set(reported) & member.revoking:
                return
            member.revoking, member.revoke_by = set(), math.inf
        target = self.targets.get(member.member_id, set())
        surplus = member.owned - target
        if surplus:
            member.owned -= surplus
            member.revoking = surplus
            member.revoke_by = now.mono + member.rebalance_timeout_ms / 1000
            self._wake_at(member.revoke_by)
            return
        if member.epoch != self.assignment_epoch:
            member.previous_epoch, member.epoch = member.epoch, self.assignment_epoch
        held = set[tuple[str, int]]()
        for other in self.members.values():
            if other is not member:
                held |= other.owned | other.revoking
        member.owned |= target - held

    def check_commit(self, member_id: str, member_epoch: int) -> int:
        """The code a commit or fetch of this member and epoch deserves; 0 if it may go on."""
        if member_epoch < 0 and not member_id:
            return 0 if not self.members else errors.UnknownMemberIdError.code
        member = self.members.get(member_id)
        if member is None:
            return errors.UnknownMemberIdError.code
        return 0 if member_epoch == member.epoch else errors.StaleMemberEpochError.code

    # Timers, log ------------------------------------------------------------------------------------------------------

    def _wake_at(self, when: float) -> None:
        self.deadline = min(self.deadline, when)

    def elapsed(self, known: Mapping[str, tuple[str, int]], now: Now, step: Step) -> None:
        """Lapsed members, and those that did not give up in time, lose their place."""
        if now.mono < self.deadline:
            return
        gone = [m for m in self.members.values() if min(m.expires, m.revoke_by) <= now.mono]
        for member in gone:
            self._remove(member, now, step)
        if gone:
            self._refresh(known, now, step, force=True)
        self.deadline = min((min(m.expires, m.revoke_by) for m in self.members.values()), default=math.inf)

    @staticmethod
    def _image(member: Member) -> tuple[object, ...]:
        return (
            member.epoch,
            member.previous_epoch,
            member.subscribed_topics,
            member.subscribed_regex,
            member.assignor,
            member.rebalance_timeout_ms,
            frozenset(member.owned),
            frozenset(member.revoking),
        )

    def _save(self, member: Member, step: Step) -> None:
        value = MemberValue(
            member_epoch=member.epoch,
            previous_epoch=member.previous_epoch,
            client_id=member.client_id,
            client_host=member.client_host,
            instance_id=member.instance_id,
            rack_id=member.rack_id,
            rebalance_timeout_ms=member.rebalance_timeout_ms,
            subscribed_topics=member.subscribed_topics,
            subscribed_regex=member.subscribed_regex,
            assignor=member.assignor,
            owned=as_lists(member.owned),
            revoking=as_lists(member.revoking),
        )
        step.records.append(GroupRecord(MemberKey(self.group, member.member_id), value))

    def _value(self, now: Now) -> ConsumerValue:
        return ConsumerValue(
            group_epoch=self.group_epoch,
            assignment_epoch=self.assignment_epoch,
            time_ms=now.wall_ms,
            assignor=self.assignor,
            targets={member: as_lists(partitions) for member, partitions in self.targets.items()},
            topics=self.topics,
        )

    def replay(self, value: ConsumerValue) -> None:
        self.group_epoch, self.assignment_epoch = value.group_epoch, value.assignment_epoch
        self.assignor, self.topics = value.assignor, value.topics
        self.targets = {member: as_set(lists) for member, lists in value.targets.items()}
        self.empty_since_ms = value.time_ms

    def replay_member(self, member_id: str, value: MemberValue | None) -> None:
        old = self.members.get(member_id)
        if old is not None and old.instance_id is not None and self.static.get(old.instance_id) == member_id:
            del self.static[old.instance_id]
        if value is None:
            self.members.pop(member_id, None)
            return
        self.members[member_id] = Member(
            member_id=member_id,
            client_id=value.client_id,
            client_host=value.client_host,
            instance_id=value.instance_id,
            rack_id=value.rack_id,
            rebalance_timeout_ms=value.rebalance_timeout_ms,
            subscribed_topics=value.subscribed_topics,
            subscribed_regex=value.subscribed_regex,
            assignor=value.assignor,
            epoch=value.member_epoch,
            previous_epoch=value.previous_epoch,
            owned=as_set(value.owned),
            revoking=as_set(value.revoking),
        )
        if value.instance_id is not None:
            self.static[value.instance_id] = member_id

    def loaded(self, now: Now) -> None:
        """The log is read: everybody has a whole session, and whoever is giving up a whole rebalance timeout."""
        for member in self.members.values():
            member.expires = now.mono + self.settings.consumer_session_timeout_ms / 1000
            if member.revoking:
                member.revoke_by = now.mono + member.rebalance_timeout_ms / 1000
            self._wake_at(min(member.expires, member.revoke_by))

    def tombstones(self) -> list[GroupRecord]:
        return [GroupRecord(MemberKey(self.group, m), None) for m in self.members] + [
            GroupRecord(GroupKey(self.group), None)
        ]

    def subscribed(self) -> frozenset[str]:
        return frozenset(self.topics)

    def describe(self) -> GroupDescribed:
        names = {topic_id: name for name, (topic_id, _) in self.topics.items()}
        return GroupDescribed(
            group=self.group,
            group_type="consumer",
            state=self.state,
            protocol_type="consumer",
            protocol=self.assignor,
            assignor=self.assignor,
            group_epoch=self.group_epoch,
            assignment_epoch=self.assignment_epoch,
            members=[
                DescribedMember(
                    member_id=m.member_id,
                    instance_id=m.instance_id,
                    client_id=m.client_id,
                    client_host=m.client_host,
                    rack_id=m.rack_id,
                    member_epoch=m.epoch,
                    subscribed_topics=m.subscribed_topics,
                    subscribed_regex=m.subscribed_regex,
                    owned=as_lists(m.owned, names),
                    target=as_lists(self.targets.get(m.member_id, set()), names),
                )
                for m in self.members.values()
            ],
        )


def as_set(lists: Iterable[TopicPartitions]) -> Partitions:
    """(topic id, partition) pairs."""
    return {(t.topic_id, p) for t in lists for p in t.partitions}


def as_lists(partitions: Partitions, names: Mapping[str, str] | None = None) -> list[TopicPartitions]:
    """The pairs grouped by topic, in order."""
    grouped: dict[str, list[int]] = {}
    for topic_id, number in sorted(partitions):
        grouped.setdefault(topic_id, []).append(number)
    return [TopicPartitions(topic_id=t, partitions=p, name=(names or {}).get(t, "")) for t, p in grouped.items()]


def refusal(request: ConsumerHeartbeat) -> tuple[int, str] | None:
    """The code and sentence for a heartbeat no group could accept; None for all others."""
    invalid = errors.InvalidRequestError.code
    if request.member_epoch < LEAVE_STATIC:
        return invalid, f"member epoch {request.member_epoch} has no meaning"
    if request.member_epoch == LEAVE_STATIC and request.instance_id is None:
        return invalid, "only a member with an instance id can leave for a while"
    if request.member_epoch == JOIN:
        if request.rebalance_timeout_ms == -1:
            return invalid, "a joining member says its rebalance timeout"
        if request.owned is None or any(t.partitions for t in request.owned):
            return invalid, "a joining member owns nothing yet, and says so"
        if not request.subscribed_topics and not request.subscribed_regex:
            return invalid, "a joining member subscribes to something"
    elif not request.member_id:
        return invalid, "a member that has joined names itself"
    if request.assignor is not None and request.assignor not in ASSIGNORS:
        return (
            errors.UnsupportedAssignorError.code,
            f"assignor {request.assignor} is not known; there are {', '.join(sorted(ASSIGNORS))}",
        )
    if request.subscribed_regex:
        try:
            re.compile(request.subscribed_regex)
        except re.error as error:
            return errors.InvalidRegularExpressionError.code, f"{request.subscribed_regex!r}: {error}"
    return None
