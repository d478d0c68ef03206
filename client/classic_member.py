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
from .membership import Change, Membership

JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP = 11, 12, 13, 14
METADATA_AGE_S = 30.0


class ClassicMember(GroupMember):
    """``heartbeat_s`` between two heartbeats; the rest is ``GroupMember``'s."""

    _membership: Membership

    def __init__(
        self, cluster: Cluster, membership: Membership, consumer: Consumer, *, heartbeat_s: float, **options: Any
    ) -> None:
        super().__init__(cluster, membership, consumer, heartbeat_s=heartbeat_s, **options)
        self._counts: dict[str, int] = {}

    async def _round(self) -> None:
        await self._give_up(self._membership.to_revoke())
        change = await self._join()
        self._tries = 0
        await self._give_up(change.revoked)
        await self._take_up(change.added)
        if not change.again:
            await self._stay()

    async def _join(self) -> Change:
        member = self._membership
        limit_s = member.rebalance_timeout_ms / 1000 + 5
        while True:
            answer = cast(JoinGroupResponse, await self._ask(JOIN_GROUP, member.join(), limit_s))
            if member.joined(answer):
                break
        counts: dict[str, int] = {}
        for topic in member.topics_of(answer):
            with contextlib.suppress(KafkaError):  # a topic that is not there yet has no partitions to give
                counts[topic] = len((await self._cluster.topic(topic, fresh=True)).partitions)
        self._counts = counts
        return member.synced(cast(SyncGroupResponse, await self._ask(SYNC_GROUP, member.sync(answer, counts), limit_s)))

    async def _stay(self) -> None:
        """Heartbeats and commits, until something is the matter (raises) or the group should be joined again."""
        look_at = time.monotonic() + METADATA_AGE_S
        while True:
            await asyncio.sleep(min(self._heartbeat_s, max(self._commit_at - time.monotonic(), 0.01)))
            await self._commit_when_due()
            await self._beat()
            if self._away:
                await self._stayed_away()
                return
            if self._membership.leader and time.monotonic() >= look_at:
                look_at = time.monotonic() + METADATA_AGE_S
                if await self._grown():
                    return

    async def _beat(self) -> None:
        answer = cast(HeartbeatResponse, await self._ask(HEARTBEAT, self._membership.heartbeat()))
        if answer.error_code:
            raise for_code(answer.error_code)(f"heartbeat in group {self._membership.group!r}")

    async def _grown(self) -> bool:
        for topic, count in self._counts.items():
            with contextlib.suppress(KafkaError):
                if len((await self._cluster.topic(topic, fresh=True)).partitions) != count:
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
        self._membership.member_id = ""
        self._membership.generation = -1

    def _unheard(self) -> None:
        """Its next request says everything anyway."""
