"""A member of a classic group: joins with everybody else, syncs, sends heartbeats until the group rebalances."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, cast

from logeion.wire.apis import HeartbeatResponse, JoinGroupResponse, SyncGroupResponse
from logeion.wire.errors import KafkaError, for_code

from .cluster import Cluster
from .consumer import Consumer
from .member import GroupMember
from .membership import Membership

JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP = 11, 12, 13, 14
# So old may be what is known of the partitions of topics that are there, and of topics that are not.
METADATA_AGE_S = 30.0
MISSING_AGE_S = 2.0


class ClassicMember(GroupMember):
    """``heartbeat_s`` between two heartbeats; the rest is ``GroupMember``'s."""

    _membership: Membership

    def __init__(
        self, cluster: Cluster, membership: Membership, consumer: Consumer, *, heartbeat_s: float, **options: Any
    ) -> None:
        super().__init__(cluster, membership, consumer, heartbeat_s=heartbeat_s, **options)
        self._counts: dict[str, int] = {}
        self._news = False

    async def _round(self) -> None:
        member = self._membership
        if not member.stable:  # an error of a heartbeat alone, or of what came after the join, is no reason to join
            await self._give_up(member.to_revoke())
            await self._join()
            self._news = True
        surplus = self._surplus()
        await self._give_up(surplus)
        if not member.stable:
            return  # the program stayed away too long for that
        await self._settle()
        if surplus and member.cooperative:
            member.rejoin()  # what was let go is announced by joining again
            return
        self._tries = 0
        await self._stay()

    async def _settle(self) -> None:
        """Reads what is this member's now; the program is told after each join, even if nothing is new."""
        missing = self._missing()
        if missing or self._news:
            await self._take_up(missing)
            self._news = False

    async def _join(self) -> None:
        member = self._membership
        limit_s = member.rebalance_timeout_ms / 1000 + 5
        while True:
            answer = cast(JoinGroupResponse, await self._ask(JOIN_GROUP, member.join(), limit_s))
            if member.joined(answer):
                break
        counts = {topic: await self._count(topic) for topic in sorted(member.topics_of(answer))}
        self._counts = counts
        member.synced(cast(SyncGroupResponse, await self._ask(SYNC_GROUP, member.sync(answer, counts), limit_s)))

    async def _stay(self) -> None:
        """Heartbeats and commits, until something is the matter (raises) or the group should be joined again."""
        look_at = time.monotonic() + self._look_again_s
        while True:
            await asyncio.sleep(min(self._heartbeat_s, max(self._commit_at - time.monotonic(), 0.01)))
            await self._commit_when_due()
            await self._beat()
            self._tries = 0
            if self._away:
                await self._stayed_away()
                return
            if self._membership.leader and time.monotonic() >= look_at:
                look_at = time.monotonic() + self._look_again_s
                if await self._grown():
                    self._membership.rejoin()
                    return

    async def _beat(self) -> None:
        answer = cast(HeartbeatResponse, await self._ask(HEARTBEAT, self._membership.heartbeat()))
        if answer.error_code:
            raise for_code(answer.error_code)(f"heartbeat in group {self._membership.group!r}")

    @property
    def _look_again_s(self) -> float:
        """A topic that is not there yet is looked for more often than more partitions of one that is."""
        return METADATA_AGE_S if all(self._counts.values()) else MISSING_AGE_S

    async def _count(self, topic: str) -> int:
        """How many partitions it has; none if it is not there yet."""
        with contextlib.suppress(KafkaError):
            return len((await self._cluster.topic(topic, fresh=True)).partitions)
        return 0

    async def _grown(self) -> bool:
        for topic, count in self._counts.items():
            # One that cannot be seen for a moment is not worth a rebalance: its partitions cannot be read now anyway.
            if await self._count(topic) not in (count, 0):
                return True
        return False

    async def _leave(self) -> None:
        request = self._membership.leave()
        if request is not None:
            # Not behind a join that the broker may sit on: it answers a connection in order.
            node = self._coordinator
            if node is not None:
                await self._cluster.call(LEAVE_GROUP, request, node=node)

    def _forget_membership(self) -> None:
        self._membership.forget()

    def _unheard(self) -> None:
        """Its next request says everything anyway."""
