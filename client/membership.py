"""One member of a classic consumer group: what it asks of the coordinator next and what an answer means. Pure.

The phases: "out" (join next) -> "syncing" -> "stable", back to "out" when the group rebalances. Between "stable" and
the next join the shell lets partitions go: all of them under an eager protocol, none under a cooperative one (KIP-429),
which takes away after the sync only what moved, and then joins again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from logeion.wire.apis import (
    HeartbeatRequest,
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    JoinGroupResponse,
    LeaveGroupRequest,
    MemberIdentity,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
    SyncGroupResponse,
)
from logeion.wire.errors import (
    ConfigError,
    IllegalGenerationError,
    KafkaError,
    MemberIdRequiredError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    for_code,
)

from .assignors import (
    ASSIGNORS,
    Subscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from .positions import TopicPartition


class Change(NamedTuple):
    """What an assignment changed. ``again``: what is revoked must be announced by joining once more."""

    revoked: list[TopicPartition]
    added: list[TopicPartition]
    again: bool


class Membership:
    """``owned`` are the partitions that this member may read now."""

    def __init__(
        self,
        group: str,
        topics: Collection[str],
        *,
        assignors: Sequence[str] = ("range", "cooperative-sticky"),
        instance_id: str | None = None,
        session_timeout_ms: int = 45_000,
        rebalance_timeout_ms: int = 300_000,
    ) -> None:
        """Raises ConfigError."""
        unknown = [name for name in assignors if name not in ASSIGNORS]
        if unknown or not assignors:
            raise ConfigError(f"partition_assignment_strategy={list(assignors)}: known are {', '.join(ASSIGNORS)}")
        self.group = group
        self.topics: tuple[str, ...] = tuple(sorted(set(topics)))
        self.assignors: tuple[str, ...] = tuple(assignors)
        self.instance_id = instance_id
        self.session_timeout_ms = session_timeout_ms
        self.rebalance_timeout_ms = rebalance_timeout_ms
        # Cooperative only if every strategy is, as in Java: a group in transition lists both.
        self.cooperative: bool = all(name == "cooperative-sticky" for name in assignors)
        self.phase: str = "out"
        self.member_id: str = ""
        self.generation: int = -1
        self.protocol: str = ""
        self.leader: bool = False
        self.owned: list[TopicPartition] = []

    @property
    def stable(self) -> bool:
        """Whether it is a member of the present generation, so that it may commit."""
        return self.phase == "stable"

    def to_revoke(self) -> list[TopicPartition]:
        """What must be let go before joining again."""
        return [] if self.cooperative else list(self.owned)

    def released(self, partitions: Collection[TopicPartition]) -> None:
        """These were let go."""
        self.owned = [tp for tp in self.owned if tp not in partitions]

    def rejoin(self) -> None:
        """The next thing is to join again, as the member that it is."""
        self.phase = "out"

    def forget(self) -> None:
        """The next thing is to join as somebody new."""
        self.phase = "out"
        self.member_id = ""
        self.generation = -1
        self.owned = []

    def join(self, reason: str = "") -> JoinGroupRequest:
        """The request to join, or to join again."""
        self.phase = "out"
        data = encode_subscription(Subscription(self.topics, tuple(self.owned), self.generation))
        return JoinGroupRequest(
            group_id=self.group,
            session_timeout_ms=self.session_timeout_ms,
            rebalance_timeout_ms=self.rebalance_timeout_ms,
            member_id=self.member_id,
            group_instance_id=self.instance_id,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol(name=name, metadata=data) for name in self.assignors],
            reason=reason or None,
        )

    def joined(self, answer: JoinGroupResponse) -> bool:
        """Whether a sync is next; False: join again. Raises KafkaError (see ``refused``)."""
        if answer.error_code:
            if for_code(answer.error_code) is MemberIdRequiredError:
                self.member_id = answer.member_id
                return False
            raise for_code(answer.error_code)(f"joining group {self.group!r}")
        self.member_id = answer.member_id
        self.generation = answer.generation_id
        self.protocol = answer.protocol_name or ""
        self.leader = answer.leader == answer.member_id
        self.phase = "syncing"
        return True

    def topics_of(self, answer: JoinGroupResponse) -> set[str]:
        """The topics whose partition counts ``sync`` needs: those of all members, if this one leads."""
        if not self.leader:
            return set()
        return {topic for one in self._members(answer).values() for topic in one.topics}

    def sync(self, answer: JoinGroupResponse, counts: Mapping[str, int]) -> SyncGroupRequest:
        """The request for the assignment; a leader's brings it for all. Raises WireError."""
        given = []
        if self.leader and not answer.skip_assignment:
            assign = ASSIGNORS[self.protocol]
            given = [
                SyncGroupRequestAssignment(member_id=member, assignment=encode_assignment(tps))
                for member, tps in assign(self._members(answer), counts).items()
            ]
        return SyncGroupRequest(
            group_id=self.group,
            generation_id=self.generation,
            member_id=self.member_id,
            group_instance_id=self.instance_id,
            protocol_type="consumer",
            protocol_name=self.protocol,
            assignments=given,
        )

    def _members(self, answer: JoinGroupResponse) -> dict[str, Subscription]:
        return {
            one.member_id: decode_subscription(bytes(one.metadata), one.group_instance_id) for one in answer.members
        }

    def synced(self, answer: SyncGroupResponse) -> Change:
        """What this member reads now. Raises KafkaError, WireError."""
        if answer.error_code:
            raise for_code(answer.error_code)(f"the assignment in group {self.group!r}")
        now = decode_assignment(bytes(answer.assignment))
        before = set(self.owned)
        revoked = [tp for tp in self.owned if tp not in set(now)]
        added = [tp for tp in now if tp not in before]
        self.owned = now
        self.phase = "stable"
        return Change(revoked, added, self.cooperative and bool(revoked))

    def heartbeat(self) -> HeartbeatRequest:
        """Sent every heartbeat interval while stable; its code goes to ``refused``."""
        return HeartbeatRequest(
            group_id=self.group,
            generation_id=self.generation,
            member_id=self.member_id,
            group_instance_id=self.instance_id,
        )

    def leave(self) -> LeaveGroupRequest | None:
        """None for a static member, who is expected back, and for one who never joined."""
        if self.instance_id is not None or not self.member_id:
            return None
        return LeaveGroupRequest(
            group_id=self.group,
            member_id=self.member_id,
            members=[
                MemberIdentity(member_id=self.member_id, group_instance_id=None, reason="the consumer was closed")
            ],
        )

    def refused(self, error: KafkaError) -> str:
        """What an error of the group means: "rejoin", "lost" (partitions belong to others already; join as a new or
        returning member), "elsewhere" (ask for the coordinator, then the same again), "again" or "fatal"."""
        if isinstance(error, RebalanceInProgressError):
            self.phase = "out"
            return "rejoin"
        if isinstance(error, UnknownMemberIdError | IllegalGenerationError):
            self.phase = "out"
            self.generation = -1
            self.owned = []
            if isinstance(error, UnknownMemberIdError):
                self.member_id = ""
            return "lost"
        if error.name in ("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE"):
            return "elsewhere"
        return "again" if error.retriable else "fatal"
