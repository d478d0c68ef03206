"""One classic consumer group: Join, Sync, Heartbeat, Leave (KIP-62, 134, 345, 389, 394, 429, 814). Pure.

State changes here at once; the answers leave only when the records made before them are committed (``Step``), and
whoever cannot commit ends the process, so nobody ever sees a state that the log does not hold.
"""

from __future__ import annotations

import math
import struct
from enum import StrEnum

import msgspec

from logeion.wire import errors

from ..messages import (
    DescribedMember,
    GroupAnswered,
    GroupDescribed,
    GroupJoined,
    GroupLeft,
    GroupProtocol,
    GroupSynced,
    HeartbeatGroup,
    JoinedMember,
    JoinGroup,
    LeaveGroup,
    LeavingMember,
    SyncGroup,
)
from .records import ClassicValue, GroupKey, GroupRecord, SavedMember
from .step import Now, Settings, Step, Token

UNKNOWN_MEMBER = errors.UnknownMemberIdError.code
FENCED_INSTANCE = errors.FencedInstanceIdError.code
ILLEGAL_GENERATION = errors.IllegalGenerationError.code
REBALANCING = errors.RebalanceInProgressError.code
INCONSISTENT = errors.InconsistentGroupProtocolError.code


class State(StrEnum):
    """The states of Kafka's group, by the names its tools print."""

    EMPTY = "Empty"
    """No members, maybe offsets; the first join moves it on, retention of the last offset ends it."""
    PREPARING = "PreparingRebalance"
    """Waits for every known member to join; complete or timed out, the next generation begins."""
    COMPLETING = "CompletingRebalance"
    """The generation is known to its members; waits for the leader's assignments."""
    STABLE = "Stable"
    """Every member has, or can ask for, its assignment; a join, a leave or a lapse moves it on."""


class Member(msgspec.Struct, kw_only=True):
    """One member; ``joining`` and ``syncing`` hold its parked request."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: list[GroupProtocol]
    assignment: bytes = b""
    joining: Token | None = None
    syncing: Token | None = None
    expires: float = 0.0

    @property
    def parked(self) -> bool:
        return self.joining is not None or self.syncing is not None

    def metadata(self, protocol: str | None) -> bytes:
        return next((p.metadata for p in self.protocols if p.name == protocol), b"")


class ClassicGroup:
    """The machine. ``deadline`` is never later than the next moment at which ``elapsed`` has something to do."""

    def __init__(self, group: str, settings: Settings) -> None:
        self.group = group
        self.settings = settings
        self.state: State = State.EMPTY
        self.generation: int = 0
        self.protocol_type: str = ""
        self.protocol: str | None = None
        self.leader: str = ""
        self.members: dict[str, Member] = {}
        self.static: dict[str, str] = {}
        self.pending: dict[str, float] = {}
        """Ids given out (KIP-394) whose owner has not come back yet, with the moment it is forgotten."""
        self.unsynced: set[str] = set()
        self.empty_since_ms: int = 0
        self.deadline: float = math.inf
        self._join_deadline = math.inf
        self._initial_limit: float | None = None
        """While set, the first rebalance of an empty group still gathers members, at most until then."""
        self._initial_joined = False
        self._sync_deadline = math.inf

    # Join ---------------------------------------------------------------------------------------------------------

    def join(self, token: Token, request: JoinGroup, now: Now, fresh_id: str, step: Step) -> None:
        """``fresh_id`` is a member id nobody has, in case this request needs one."""
        code = self._refuse_join(request)
        if code:
            step.reply(token, GroupJoined(code=code, member_id=request.member_id))
            return
        if request.member_id:
            self._join_known(token, request, now, step)
        elif request.instance_id is not None:
            self._join_static(token, request, now, fresh_id, step)
        elif request.require_member_id:
            self._expect(fresh_id, now.mono + request.session_timeout_ms / 1000)
            step.reply(token, GroupJoined(code=errors.MemberIdRequiredError.code, member_id=fresh_id))
        else:
            self._add(token, request, fresh_id, now, step)

    def _refuse_join(self, request: JoinGroup) -> int:
        settings = self.settings
        if not settings.min_session_timeout_ms <= request.session_timeout_ms <= settings.max_session_timeout_ms:
            return errors.InvalidSessionTimeoutError.code
        if not request.protocol_type or not request.protocols:
            return INCONSISTENT
        others = [m for m in self.members.values() if m.member_id != request.member_id]
        if others:
            supported = {p.name for p in request.protocols}
            for member in others:
                supported &= {p.name for p in member.protocols}
            if request.protocol_type != self.protocol_type or not supported:
                return INCONSISTENT
        is_new = request.member_id not in self.members and request.instance_id not in self.static
        if is_new and len(self.members) + len(self.pending.keys() - {request.member_id}) >= settings.max_size:
            return errors.GroupMaxSizeReachedError.code
        return 0

    def _join_known(self, token: Token, request: JoinGroup, now: Now, step: Step) -> None:
        if request.instance_id is None and self.pending.pop(request.member_id, None) is not None:
            self._add(token, request, request.member_id, now, step)
            return
        code = self._check_member(request.member_id, request.instance_id)
        if code:
            step.reply(token, GroupJoined(code=code, member_id=request.member_id))
            return
        member = self.members[request.member_id]
        same = member.protocols == request.protocols
        if self.state is State.PREPARING:
            self._rejoin(token, member, request, now, step)
        elif same and (
            self.state is State.COMPLETING or (self.state is State.STABLE and member.member_id != self.leader)
        ):
            # The answer to its join was lost, or it reconnected: the generation it belongs to still stands.
            self._touch(member, now)
            step.reply(token, self._joined(member))
        else:
            self._rejoin(token, member, request, now, step)

    def _join_static(self, token: Token, request: JoinGroup, now: Now, fresh_id: str, step: Step) -> None:
        assert request.instance_id is not None
        old_id = self.static.get(request.instance_id)
        if old_id is None:
            self._add(token, request, fresh_id, now, step)
            return
        member = self.members.pop(old_id)
        old_leader = self.leader
        fenced = errors.FencedInstanceIdError.code
        if member.joining is not None:
            step.reply(member.joining, GroupJoined(code=fenced, member_id=old_id))
        if member.syncing is not None:
            step.reply(member.syncing, GroupSynced(code=fenced))
        brought = next((p.metadata for p in request.protocols if p.name == self.protocol), None)
        unchanged = brought is not None and self._wants_the_same(member.metadata(self.protocol), brought)
        member.member_id, member.joining, member.syncing = fresh_id, None, None
        self.members[fresh_id] = member
        self.static[request.instance_id] = fresh_id
        if old_id in self.unsynced:
            self.unsynced.discard(old_id)
            self.unsynced.add(fresh_id)
        if self.leader == old_id:
            self.leader = fresh_id
        self._describe(member, request)
        if self.state is State.STABLE and unchanged:
            # KIP-345: a static member that comes back takes its old place without a rebalance. A leader that cannot
            # be told to skip the assignment (before v9, KIP-814) is shown its predecessor's id, and so only follows.
            self._touch(member, now)
            self._save(now, step)
            leads = self.leader == fresh_id
            answer = self._joined(member, skip=leads and request.can_skip_assignment)
            if leads and not request.can_skip_assignment:
                answer = msgspec.structs.replace(answer, leader=old_leader, members=[])
            step.reply(token, answer)
        else:
            self._rejoin(token, member, request, now, step)

    def _wants_the_same(self, before: bytes, now: bytes) -> bool:
        """Whether two subscriptions name the same topics. The rest of them (what it owns, since which generation)
        always differs when a client restarts, and is no reason to rebalance."""
        if before == now:
            return True
        try:
            return self.protocol_type == "consumer" and set(subscribed_topics(before)) == set(subscribed_topics(now))
        except ValueError:
            return False

    def _add(self, token: Token, request: JoinGroup, member_id: str, now: Now, step: Step) -> None:
        member = Member(
            member_id=member_id,
            instance_id=request.instance_id,
            client_id=request.client_id,
            client_host=request.client_host,
            session_timeout_ms=request.session_timeout_ms,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            protocols=request.protocols,
        )
        if not self.members:
            self.protocol_type = request.protocol_type
        self.members[member_id] = member
        if member.instance_id is not None:
            self.static[member.instance_id] = member_id
        self._initial_joined = True
        self._rejoin(token, member, request, now, step)

    def _rejoin(self, token: Token, member: Member, request: JoinGroup, now: Now, step: Step) -> None:
        self._describe(member, request)
        if member.joining is not None:
            # The same member asks again on another connection; the first question must not stay unanswered.
            step.reply(member.joining, GroupJoined(code=REBALANCING, member_id=member.member_id))
        member.joining = token
        self._touch(member, now)
        if self.state is State.PREPARING:
            self._try_complete(now, step)
        else:
            self._prepare(now, step)

    @staticmethod
    def _describe(member: Member, request: JoinGroup) -> None:
        member.client_id, member.client_host = request.client_id, request.client_host
        member.session_timeout_ms = request.session_timeout_ms
        member.rebalance_timeout_ms = request.rebalance_timeout_ms
        member.protocols = request.protocols

    def _prepare(self, now: Now, step: Step) -> None:
        """Begin a rebalance: whoever waits for an assignment is sent back to join."""
        for member in self.members.values():
            if member.syncing is not None:
                step.reply(member.syncing, GroupSynced(code=REBALANCING))
                member.syncing = None
                self._touch(member, now)
        self.unsynced.clear()
        self._sync_deadline = math.inf
        first = self.state is State.EMPTY
        self.state = State.PREPARING
        timeout = self._rebalance_timeout()
        delay = self.settings.initial_rebalance_delay_ms / 1000
        if first and delay > 0:
            self._initial_limit = now.mono + timeout
            self._initial_joined = False
            self._join_deadline = now.mono + min(delay, timeout)
        else:
            self._initial_limit = None
            self._join_deadline = now.mono + timeout
        self._wake_at(self._join_deadline)
        self._try_complete(now, step)

    def _try_complete(self, now: Now, step: Step) -> None:
        if (
            self.state is State.PREPARING
            and self._initial_limit is None
            and not self.pending
            and all(m.joining is not None for m in self.members.values())
        ):
            self._begin_generation(now, step)

    def _begin_generation(self, now: Now, step: Step) -> None:
        """The join phase ends: dynamic members that did not come are out, the rest are the next generation."""
        for member in [m for m in self.members.values() if m.joining is None and m.instance_id is None]:
            self._forget(member)
        if self.members and all(m.joining is None for m in self.members.values()):
            # Only static members, none back yet: they have their whole session to return.
            self._join_deadline = now.mono + self._rebalance_timeout()
            self._wake_at(self._join_deadline)
            return
        self._join_deadline = math.inf
        self._initial_limit = None
        self.generation += 1
        if not self.members:
            self.state, self.protocol, self.leader = State.EMPTY, None, ""
            self.empty_since_ms = now.wall_ms
            self._save(now, step)
            return
        present = [m for m in self.members.values() if m.joining is not None]
        if self.leader not in self.members or self.members[self.leader].joining is None:
            self.leader = present[0].member_id
        self.protocol = self._elect_protocol()
        self.state = State.COMPLETING
        self.unsynced = set(self.members)
        for member in self.members.values():
            member.assignment = b""
        self._sync_deadline = now.mono + self._rebalance_timeout()
        self._wake_at(self._sync_deadline)
        self._save(now, step)
        for member in present:
            assert member.joining is not None
            step.reply(member.joining, self._joined(member))
            member.joining = None
            self._touch(member, now)

    def _elect_protocol(self) -> str:
        """Each member votes for the first of its protocols that all support."""
        members = list(self.members.values())
        common = set.intersection(*({p.name for p in m.protocols} for m in members))
        votes: dict[str, int] = {}
        for member in members:
            choice = next(p.name for p in member.protocols if p.name in common)
            votes[choice] = votes.get(choice, 0) + 1
        return max(sorted(votes), key=lambda name: votes[name])

    def _joined(self, member: Member, *, skip: bool = False) -> GroupJoined:
        members = []
        if member.member_id == self.leader:
            members = [
                JoinedMember(member_id=m.member_id, instance_id=m.instance_id, metadata=m.metadata(self.protocol))
                for m in self.members.values()
            ]
        return GroupJoined(
            generation=self.generation,
            protocol_type=self.protocol_type,
            protocol=self.protocol,
            leader=self.leader,
            member_id=member.member_id,
            skip_assignment=skip,
            members=members,
        )

    # Sync, heartbeat, leave -----------------------------------------------------------------------------------------

    def sync(self, token: Token, request: SyncGroup, now: Now, step: Step) -> None:
        code = self.check(request.member_id, request.instance_id, request.generation)
        if not code and self.state is State.PREPARING:
            code = REBALANCING
        if not code and (
            request.protocol_type not in (None, self.protocol_type) or request.protocol not in (None, self.protocol)
        ):
            code = INCONSISTENT
        if code:
            step.reply(token, GroupSynced(code=code))
            return
        member = self.members[request.member_id]
        self.unsynced.discard(member.member_id)
        self._touch(member, now)
        if self.state is State.STABLE:
            step.reply(token, self._synced(member))
            return
        if member.syncing is not None:
            step.reply(member.syncing, GroupSynced(code=REBALANCING))
        member.syncing = token
        if member.member_id == self.leader:
            for other in self.members.values():
                other.assignment = request.assignments.get(other.member_id, b"")
            self.state = State.STABLE
            self._save(now, step)
            for other in self.members.values():
                if other.syncing is not None:
                    step.reply(other.syncing, self._synced(other))
                    other.syncing = None
                    self._touch(other, now)

    def _synced(self, member: Member) -> GroupSynced:
        return GroupSynced(protocol_type=self.protocol_type, protocol=self.protocol, assignment=member.assignment)

    def heartbeat(self, token: Token, request: HeartbeatGroup, now: Now, step: Step) -> None:
        code = self.check(request.member_id, request.instance_id, request.generation)
        if not code:
            self._touch(self.members[request.member_id], now)
            if self.state is State.PREPARING:
                code = REBALANCING
        step.reply(token, GroupAnswered(code=code))

    def leave(self, token: Token, request: LeaveGroup, now: Now, step: Step) -> None:
        results = []
        left = False
        for leaving in request.members:
            code, gone = self._leave_one(leaving, step)
            left = left or gone
            results.append(LeavingMember(member_id=leaving.member_id, instance_id=leaving.instance_id, code=code))
        if left:
            self._shrunk(now, step)
        step.reply(token, GroupLeft(members=results))

    def _leave_one(self, leaving: LeavingMember, step: Step) -> tuple[int, bool]:
        if leaving.instance_id is not None and not leaving.member_id:
            member_id = self.static.get(leaving.instance_id)
            if member_id is None:
                return UNKNOWN_MEMBER, False
        elif leaving.instance_id is None and self.pending.pop(leaving.member_id, None) is not None:
            return 0, True
        else:
            member_id = leaving.member_id
            code = self._check_member(member_id, leaving.instance_id)
            if code:
                return code, False
        member = self.members[member_id]
        self._dismiss(member, step)
        return 0, True

    def _dismiss(self, member: Member, step: Step) -> None:
        """Take a member out; what it still waits for is answered."""
        if member.joining is not None:
            step.reply(member.joining, GroupJoined(code=UNKNOWN_MEMBER, member_id=member.member_id))
        if member.syncing is not None:
            step.reply(member.syncing, GroupSynced(code=UNKNOWN_MEMBER))
        self._forget(member)

    def _forget(self, member: Member) -> None:
        del self.members[member.member_id]
        self.unsynced.discard(member.member_id)
        if member.instance_id is not None:
            self.static.pop(member.instance_id, None)

    def _shrunk(self, now: Now, step: Step) -> None:
        """Somebody is gone: what follows from it in each state."""
        if self.state in (State.STABLE, State.COMPLETING):
            self._prepare(now, step)
        elif self.state is State.PREPARING:
            self._try_complete(now, step)

    # Checks, timers, log --------------------------------------------------------------------------------------------

    def _check_member(self, member_id: str, instance_id: str | None) -> int:
        if instance_id is not None:
            owner = self.static.get(instance_id)
            if owner is None:
                return UNKNOWN_MEMBER
            if owner != member_id:
                return FENCED_INSTANCE
        elif member_id not in self.members:
            return UNKNOWN_MEMBER
        return 0

    def check(self, member_id: str, instance_id: str | None, generation: int) -> int:
        """The code a request of this member and generation deserves; 0 if it may go on."""
        code = self._check_member(member_id, instance_id)
        if not code and generation != self.generation:
            code = ILLEGAL_GENERATION
        return code

    def check_commit(self, member_id: str, instance_id: str | None, generation: int, now: Now) -> int:
        """May this commit go on? A commit is as good as a heartbeat."""
        if generation < 0 and not member_id and instance_id is None:
            return 0 if self.state is State.EMPTY else UNKNOWN_MEMBER
        code = self.check(member_id, instance_id, generation)
        if not code and self.state is State.COMPLETING:
            code = REBALANCING
        if not code:
            self._touch(self.members[member_id], now)
        return code

    def _touch(self, member: Member, now: Now) -> None:
        member.expires = now.mono + member.session_timeout_ms / 1000
        self._wake_at(member.expires)

    def _expect(self, member_id: str, until: float) -> None:
        self.pending[member_id] = until
        self._wake_at(until)

    def _wake_at(self, when: float) -> None:
        self.deadline = min(self.deadline, when)

    def _rebalance_timeout(self) -> float:
        return max((m.rebalance_timeout_ms for m in self.members.values()), default=0) / 1000

    def elapsed(self, now: Now, step: Step) -> None:
        """Time has passed: lapsed members go, overdue phases end; sets the next deadline."""
        if now.mono < self.deadline:
            return
        self.deadline = math.inf
        gone = [name for name, until in self.pending.items() if until <= now.mono]
        for name in gone:
            del self.pending[name]
        lapsed = [m for m in self.members.values() if not m.parked and m.expires <= now.mono]
        for member in lapsed:
            self._dismiss(member, step)
        if gone or lapsed:
            self._shrunk(now, step)
        if self.state is State.PREPARING and self._join_deadline <= now.mono:
            self._join_overdue(now, step)
        if self.unsynced and self._sync_deadline <= now.mono:
            self._sync_deadline = math.inf
            for member in [self.members[name] for name in sorted(self.unsynced)]:
                self._dismiss(member, step)
            self._shrunk(now, step)
        for when in self._deadlines():
            self._wake_at(when)

    def _join_overdue(self, now: Now, step: Step) -> None:
        if self._initial_limit is not None:
            delay = self.settings.initial_rebalance_delay_ms / 1000
            if self._initial_joined and now.mono < self._initial_limit:
                self._initial_joined = False
                self._join_deadline = min(now.mono + delay, self._initial_limit)
                return
            self._initial_limit = None
        self._begin_generation(now, step)

    def _deadlines(self) -> list[float]:
        waits = [m.expires for m in self.members.values() if not m.parked]
        waits.extend(self.pending.values())
        if self.state is State.PREPARING:
            waits.append(self._join_deadline)
        if self.unsynced:
            waits.append(self._sync_deadline)
        return waits

    def _save(self, now: Now, step: Step) -> None:
        members = [
            SavedMember(
                member_id=m.member_id,
                client_id=m.client_id,
                client_host=m.client_host,
                session_timeout_ms=m.session_timeout_ms,
                rebalance_timeout_ms=m.rebalance_timeout_ms,
                protocols=m.protocols,
                instance_id=m.instance_id,
                assignment=m.assignment,
            )
            for m in self.members.values()
        ]
        value = ClassicValue(
            generation=self.generation,
            protocol_type=self.protocol_type,
            time_ms=now.wall_ms,
            protocol=self.protocol,
            leader=self.leader,
            assigned=self.state is State.STABLE,
            members=members,
        )
        step.records.append(GroupRecord(GroupKey(self.group), value))

    def replay(self, value: ClassicValue) -> None:
        """Take over a generation from the log; ``loaded`` starts the clocks when all is read."""
        self.generation = value.generation
        self.protocol_type, self.protocol, self.leader = value.protocol_type, value.protocol, value.leader
        self.members = {
            m.member_id: Member(
                member_id=m.member_id,
                instance_id=m.instance_id,
                client_id=m.client_id,
                client_host=m.client_host,
                session_timeout_ms=m.session_timeout_ms,
                rebalance_timeout_ms=m.rebalance_timeout_ms,
                protocols=m.protocols,
                assignment=m.assignment,
            )
            for m in value.members
        }
        self.static = {m.instance_id: m.member_id for m in value.members if m.instance_id is not None}
        if not self.members:
            self.state, self.empty_since_ms = State.EMPTY, value.time_ms
        else:
            self.state = State.STABLE if value.assigned else State.COMPLETING

    def loaded(self, now: Now) -> None:
        """The log is read: everybody has a whole session, an open sync phase a whole timeout."""
        for member in self.members.values():
            self._touch(member, now)
        if self.state is State.COMPLETING:
            self.unsynced = set(self.members)
            self._sync_deadline = now.mono + self._rebalance_timeout()
            self._wake_at(self._sync_deadline)

    def subscribed(self) -> frozenset[str] | None:
        """The topics its members subscribe to; None when that cannot be read from their metadata."""
        if self.state is State.EMPTY:
            return frozenset()
        if self.protocol_type != "consumer":
            return None
        topics: set[str] = set()
        for member in self.members.values():
            try:
                topics.update(subscribed_topics(member.metadata(self.protocol or member.protocols[0].name)))
            except ValueError:
                return None
        return frozenset(topics)

    def describe(self) -> GroupDescribed:
        settled = self.state is State.STABLE
        return GroupDescribed(
            group=self.group,
            group_type="classic",
            state=self.state.value,
            protocol_type=self.protocol_type,
            protocol=self.protocol or "" if settled else "",
            members=[
                DescribedMember(
                    member_id=m.member_id,
                    instance_id=m.instance_id,
                    client_id=m.client_id,
                    client_host=m.client_host,
                    metadata=m.metadata(self.protocol) if settled else b"",
                    assignment=m.assignment if settled else b"",
                )
                for m in self.members.values()
            ],
        )


def subscribed_topics(metadata: bytes) -> list[str]:
    """The topics of an embedded consumer subscription (version i16, count i32, strings); ValueError if malformed."""
    try:
        _, count = struct.unpack_from(">hi", metadata)
        at = 6
        if count < 0 or count * 2 > len(metadata):
            raise ValueError(f"a subscription of {len(metadata)} bytes cannot hold {count} topics")
        topics = []
        for _ in range(count):
            (length,) = struct.unpack_from(">h", metadata, at)
            end = at + 2 + length
            if length < 0 or end > len(metadata):
                raise ValueError(f"topic name of {length} bytes at {at} passes the end of the subscription")
            topics.append(metadata[at + 2 : end].decode())
            at = end
    except struct.error as error:
        raise ValueError(f"truncated subscription: {error}") from error
    return topics
