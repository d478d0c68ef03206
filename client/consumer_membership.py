"""One member of a group under the newer protocol (KIP-848), where the coordinator assigns. Pure.

Everything is said by heartbeats. The coordinator names a target; what is in hand and not in the target is let go,
reported by the next heartbeat, and only then do others get it, or this member what others let go. ``epoch`` 0 joins,
-1 leaves, -2 leaves as a static member who is expected back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from logeion.wire.apis import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    ConsumerGroupHeartbeatTopicPartitions,
)
from logeion.wire.errors import (
    FencedMemberEpochError,
    KafkaError,
    StaleMemberEpochError,
    UnknownMemberIdError,
    for_code,
)

from .membership import Change
from .positions import TopicPartition

JOIN, LEAVE, LEAVE_STATIC = 0, -1, -2


class ConsumerMembership:
    """``owned`` are the partitions that this member may read now; ``member_id`` is its own choice (a random UUID)."""

    def __init__(
        self,
        group: str,
        topics: Collection[str],
        *,
        member_id: str,
        instance_id: str | None = None,
        rebalance_timeout_ms: int = 300_000,
        assignor: str | None = None,
    ) -> None:
        self.group = group
        self.topics: tuple[str, ...] = tuple(sorted(set(topics)))
        self.member_id: str = member_id
        self.instance_id = instance_id
        self.rebalance_timeout_ms = rebalance_timeout_ms
        self.assignor = assignor
        self.generation: int = JOIN
        self.heartbeat_s: float = 0.0
        self.owned: list[TopicPartition] = []
        self._ids: dict[str, str] = {}
        self._target: dict[str, frozenset[int]] | None = None
        # What the coordinator was last told to be in hand; None: nothing yet.
        self._told: frozenset[TopicPartition] | None = None

    @property
    def stable(self) -> bool:
        """Whether the coordinator knows this member, so that it may commit."""
        return self.generation > JOIN

    def heartbeat(self) -> ConsumerGroupHeartbeatRequest:
        """The next one: everything when it joins, later only what the coordinator has not been told."""
        request = ConsumerGroupHeartbeatRequest(
            group_id=self.group, member_id=self.member_id, member_epoch=self.generation
        )
        if self.generation == JOIN:
            request.instance_id = self.instance_id
            request.rebalance_timeout_ms = self.rebalance_timeout_ms
            request.subscribed_topic_names = list(self.topics)
            request.server_assignor = self.assignor
            request.topic_partitions = []
            self._told = frozenset()
        elif self._told != frozenset(self.owned):
            request.instance_id = self.instance_id
            request.topic_partitions = self._owned_by_id()
            self._told = frozenset(self.owned)
        return request

    def unheard(self) -> None:
        """The last heartbeat may not have arrived: the next one says everything that could be missing."""
        self._told = None

    def leave(self) -> ConsumerGroupHeartbeatRequest | None:
        """None for one who never joined."""
        if not self.stable:
            return None
        return ConsumerGroupHeartbeatRequest(
            group_id=self.group,
            member_id=self.member_id,
            instance_id=self.instance_id,
            member_epoch=LEAVE if self.instance_id is None else LEAVE_STATIC,
        )

    def answered(self, answer: ConsumerGroupHeartbeatResponse) -> None:
        """Raises KafkaError (see ``refused``)."""
        if answer.error_code:
            kind = for_code(answer.error_code)
            raise kind(answer.error_message or f"heartbeat in group {self.group!r}")
        self.member_id = answer.member_id or self.member_id
        self.generation = answer.member_epoch
        self.heartbeat_s = answer.heartbeat_interval_ms / 1000
        if answer.assignment is not None:
            self._target = {one.topic_id: frozenset(one.partitions) for one in answer.assignment.topic_partitions}

    def unknown_ids(self, names: Mapping[str, str]) -> bool:
        """Whether the target has a topic whose name is not known (``names`` maps ids to names)."""
        return any(topic_id not in names for topic_id in self._target or ())

    def change(self, names: Mapping[str, str]) -> Change:
        """From what is in hand to the target, as far as its topics' names are known."""
        if self._target is None:
            return Change([], [], False)
        wanted = []
        for topic_id, partitions in self._target.items():
            name = names.get(topic_id)
            if name is not None:
                self._ids[name] = topic_id
                wanted += [TopicPartition(name, partition) for partition in sorted(partitions)]
        kept, target = set(self.owned), set(wanted)
        return Change([tp for tp in self.owned if tp not in target], [tp for tp in wanted if tp not in kept], False)

    def taken(self, partitions: Collection[TopicPartition]) -> None:
        """These are read now."""
        self.owned = sorted({*self.owned, *partitions})

    def released(self, partitions: Collection[TopicPartition]) -> None:
        """These were let go."""
        self.owned = [tp for tp in self.owned if tp not in partitions]

    def forget(self) -> None:
        """Nothing of this membership counts any more: the next heartbeat joins."""
        self.generation = JOIN
        self.owned = []
        self._target = self._told = None

    def refused(self, error: KafkaError) -> str:
        """What an error of the group means: "lost" (others have the partitions; join again), "behind" (a heartbeat
        brings the epoch, then the same again), "elsewhere", "again" or "fatal"; see ``Membership.refused``."""
        if isinstance(error, FencedMemberEpochError | UnknownMemberIdError):
            self.forget()
            return "lost"
        if isinstance(error, StaleMemberEpochError):
            return "behind"
        if error.name in ("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE"):
            return "elsewhere"
        return "again" if error.retriable else "fatal"

    def _owned_by_id(self) -> list[ConsumerGroupHeartbeatTopicPartitions]:
        by_id: dict[str, list[int]] = {}
        for tp in self.owned:
            by_id.setdefault(self._ids[tp.topic], []).append(tp.partition)
        return [
            ConsumerGroupHeartbeatTopicPartitions(topic_id=topic_id, partitions=partitions)
            for topic_id, partitions in by_id.items()
        ]
