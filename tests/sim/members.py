"""Members of a consumer group, classic and KIP-848, as a client library would have them: join, own, commit, leave.

They know their group by what they ask its coordinator through ``Surroundings``, and nothing of how that is made.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from logeion.actors.messages import (
    CommitOffsets,
    ConsumerHeartbeat,
    ConsumerHeartbeatAnswered,
    FetchOffsets,
    GroupAnswered,
    GroupJoined,
    GroupProtocol,
    GroupSynced,
    HeartbeatGroup,
    JoinGroup,
    LeaveGroup,
    LeavingMember,
    Message,
    OffsetsCommitted,
    OffsetToCommit,
    SyncGroup,
    TopicPartitions,
)
from logeion.wire import errors

NOT_COORDINATOR = errors.NotCoordinatorError.code


class Pace(msgspec.Struct, frozen=True):
    """How often a member says something, and how long it waits."""

    beat_s: float = 0.5
    session_ms: int = 6_000
    rebalance_ms: int = 5_000
    answer_s: float = 4.0
    joined_s: float = 8.0


class Surroundings(Protocol):
    """One group's world, as its members see it."""

    group: str
    topic: str
    topic_id: str
    partitions: int
    pace: Pace
    random: random.Random
    ids: Iterator[int]

    @property
    def time(self) -> float:
        """Seconds since the world began."""

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Do this then."""

    def after(self, delay: float, what: Callable[[], None]) -> None:
        """Do this so much later."""

    def note(self, line: str) -> None:
        """A line of the story."""

    def ask(
        self, sender: str, request: Message, on_answer: Callable[[Message | None], None], timeout: float = 4.0
    ) -> None:
        """Send to whoever coordinates; ``None`` is no answer."""

    def may_commit(self) -> bool:
        """Whether members still commit."""

    def label(self, member: MemberBase) -> str:
        """What to write beside the positions of a commit."""

    def committed(self, member: str, generation: int, positions: dict[int, int]) -> None:
        """A commit of this member was acknowledged."""

    def saw_generation(self, generation: int, members: frozenset[str]) -> None:
        """A leader was told who its generation is."""

    def check_exclusive(self, member: MemberBase, given: set[int]) -> None:
        """A member was given these by the server."""


class MemberBase:
    """What both kinds of member do: process, commit, crash, leave, pause."""

    def __init__(self, world: Surroundings, number: int, instance_id: str | None) -> None:
        self.world = world
        self.name = f"c{number}"
        self.instance_id = instance_id
        self.alive = True
        self.paused_until = 0.0
        self.member_id = ""
        self.epoch = -1
        self.owned: set[int] = set()
        self.positions: dict[int, int] = {}
        self.taken: dict[int, int] = {}
        self.round = 0

    def start(self) -> None:
        """Come into the group."""
        raise NotImplementedError

    def leave(self) -> None:
        """Go, and say so."""
        raise NotImplementedError

    def crash(self) -> None:
        self.world.note(f"{self.name} crashed")
        self.alive = False
        self.owned = set()

    def guarded(self, what: Callable[[], None]) -> Callable[[], None]:
        """``what``, unless the member crashed; later, if it is paused."""

        def run() -> None:
            if not self.alive:
                return
            if self.world.time < self.paused_until:
                self.world.at(self.paused_until, run)
            else:
                what()

        return run

    def asking(self, request: Message, on_answer: Callable[[Message | None], None], timeout: float = 0.0) -> None:
        self.world.ask(
            self.name,
            request,
            lambda answer: self.guarded(lambda: on_answer(answer))(),
            timeout or self.world.pace.answer_s,
        )

    def take(self, partitions: set[int], then: Callable[[], None]) -> None:
        """Own these partitions from their committed positions."""
        fresh = partitions - self.owned
        self.owned = set(partitions)
        for partition in fresh:
            # An answer to an earlier question about this partition must not count any more.
            self.taken[partition] = next(self.world.ids)
            self.positions.pop(partition, None)
        if not fresh:
            then()
            return

        numbers = {self.taken[partition] for partition in fresh}

        def fetched(answer: Message | None) -> None:
            found = getattr(answer, "offsets", None)
            if not found:
                if any(self.taken[p] in numbers for p in self.owned & fresh):
                    self.world.after(0.1, self.guarded(lambda: self.asking(question, fetched)))
                return
            for entry in found:
                if entry.partition in self.owned and self.taken[entry.partition] in numbers:
                    self.positions[entry.partition] = max(entry.offset, 0)
            then()

        question = FetchOffsets(group=self.world.group, partitions=[(self.world.topic, p) for p in sorted(fresh)])
        self.asking(question, fetched)

    def commit(self) -> None:
        world = self.world
        wanted = {}
        for partition in self.owned:
            if partition in self.positions:
                self.positions[partition] += world.random.randint(0, 3)
                wanted[partition] = self.positions[partition]
        if not wanted or not world.may_commit():
            return
        epoch, member_id, label = self.epoch, self.member_id, world.label(self)
        request = CommitOffsets(
            group=self.world.group,
            generation=epoch,
            member_id=member_id,
            instance_id=self.instance_id,
            offsets=[
                OffsetToCommit(topic=world.topic, partition=p, offset=o, metadata=label)
                for p, o in sorted(wanted.items())
            ],
        )

        def done(answer: Message | None) -> None:
            if isinstance(answer, OffsetsCommitted) and answer.code == 0:
                world.committed(self.instance_id or member_id, epoch, wanted)

        world.ask(self.name, request, done, world.pace.answer_s)


class ClassicMember(MemberBase):
    def start(self) -> None:
        self.join()

    def join(self) -> None:
        """Eager: what was owned is given up before the next generation."""
        self.owned = set()
        self.round += 1
        this = self.round
        request = JoinGroup(
            group=self.world.group,
            member_id=self.member_id,
            instance_id=self.instance_id,
            client_id=self.name,
            client_host="h",
            protocol_type="consumer",
            protocols=[GroupProtocol(name="range", metadata=self.name.encode())],
            session_timeout_ms=self.world.pace.session_ms,
            rebalance_timeout_ms=self.world.pace.rebalance_ms,
            require_member_id=self.instance_id is None,
        )

        def joined(answer: Message | None) -> None:
            if this != self.round:
                return
            if not isinstance(answer, GroupJoined):
                self.world.after(0.1, self.guarded(self.join))
            elif answer.code == errors.MemberIdRequiredError.code:
                self.member_id = answer.member_id
                self.join()
            elif answer.code == errors.FencedInstanceIdError.code:
                self.crash()
            elif answer.code:
                if answer.code == errors.UnknownMemberIdError.code:
                    self.reset()
                self.world.after(0.1, self.guarded(self.join))
            else:
                self.member_id, self.epoch = answer.member_id, answer.generation
                shares: dict[str, bytes] = {}
                if answer.members:
                    names = sorted(m.member_id for m in answer.members)
                    self.world.saw_generation(answer.generation, frozenset(names))
                    for partition in range(self.world.partitions):
                        owner = names[partition % len(names)]
                        shares[owner] = shares.get(owner, b"") + bytes([partition])
                self.sync(shares)

        self.asking(request, joined, timeout=self.world.pace.joined_s)

    def reset(self) -> None:
        self.member_id, self.epoch, self.owned = "", -1, set()

    def sync(self, shares: dict[str, bytes]) -> None:
        this = self.round
        request = SyncGroup(
            group=self.world.group,
            generation=self.epoch,
            member_id=self.member_id,
            instance_id=self.instance_id,
            assignments=shares,
        )

        def synced(answer: Message | None) -> None:
            if this != self.round:
                return
            if isinstance(answer, GroupSynced) and answer.code == 0:
                self.take(set(answer.assignment), lambda: None)
                self.world.after(self.world.pace.beat_s, self.guarded(lambda: self.beat(this)))
            elif isinstance(answer, GroupSynced) and answer.code == errors.UnknownMemberIdError.code:
                self.reset()
                self.join()
            elif isinstance(answer, GroupSynced) and answer.code == errors.FencedInstanceIdError.code:
                self.crash()
            elif isinstance(answer, GroupSynced):
                self.join()
            else:
                self.world.after(0.1, self.guarded(self.join))

        self.asking(request, synced, timeout=self.world.pace.joined_s)

    def beat(self, this: int) -> None:
        if this != self.round:
            return
        self.commit()
        request = HeartbeatGroup(
            group=self.world.group, generation=self.epoch, member_id=self.member_id, instance_id=self.instance_id
        )

        def beaten(answer: Message | None) -> None:
            if this != self.round:
                return
            code = answer.code if isinstance(answer, GroupAnswered) else NOT_COORDINATOR
            if code in (0, NOT_COORDINATOR):
                self.world.after(self.world.pace.beat_s, self.guarded(lambda: self.beat(this)))
            elif code == errors.FencedInstanceIdError.code:
                self.crash()
            else:
                if code == errors.UnknownMemberIdError.code:
                    self.reset()
                self.owned = set()
                self.join()

        self.asking(request, beaten)

    def leave(self) -> None:
        self.crash()
        self.world.ask(
            self.name,
            LeaveGroup(
                group=self.world.group, members=[LeavingMember(member_id=self.member_id, instance_id=self.instance_id)]
            ),
            lambda answer: None,
        )


class ConsumerMember(MemberBase):
    def start(self) -> None:
        self.member_id = f"{self.name}-{next(self.world.ids)}"
        self.epoch = 0
        self.round += 1
        self.beat(self.round)

    def beat(self, this: int) -> None:
        if this != self.round:
            return
        if self.epoch > 0:
            self.commit()
        joining = self.epoch == 0
        request = ConsumerHeartbeat(
            group=self.world.group,
            member_id=self.member_id,
            member_epoch=self.epoch,
            client_id=self.name,
            client_host="h",
            instance_id=self.instance_id,
            rebalance_timeout_ms=self.world.pace.rebalance_ms if joining else -1,
            subscribed_topics=[self.world.topic] if joining else None,
            owned=[TopicPartitions(topic_id=self.world.topic_id, partitions=sorted(self.owned))]
            if self.owned or not joining
            else [],
        )

        def beaten(answer: Message | None) -> None:
            if this != self.round:
                return
            if not isinstance(answer, ConsumerHeartbeatAnswered) or answer.code in (
                NOT_COORDINATOR,
                errors.UnreleasedInstanceIdError.code,
            ):
                self.world.after(0.2, self.guarded(lambda: self.beat(this)))
                return
            if answer.code == errors.FencedInstanceIdError.code:
                self.crash()
                return
            if answer.code:
                self.owned, self.epoch = set(), 0
                self.round += 1
                again = self.round
                self.world.after(0.1, self.guarded(lambda: self.beat(again)))
                return
            self.epoch = answer.member_epoch
            if answer.assignment is not None:
                wanted = {p for t in answer.assignment for p in t.partitions}
                self.world.check_exclusive(self, wanted - self.owned)
                self.take(wanted, lambda: None)
            self.world.after(self.world.pace.beat_s, self.guarded(lambda: self.beat(this)))

        self.asking(request, beaten)

    def leave(self) -> None:
        request = ConsumerHeartbeat(
            group=self.world.group,
            member_id=self.member_id,
            member_epoch=-1 if self.instance_id is None else -2,
            client_id=self.name,
            client_host="h",
            instance_id=self.instance_id,
        )
        self.crash()
        self.world.ask(self.name, request, lambda answer: None)
