"""A member of a group under KIP-848: one heartbeat after another, and what each answer changes."""

from __future__ import annotations

import asyncio
import time
from typing import cast

from logeion.wire.apis import ConsumerGroupHeartbeatResponse

from .consumer_membership import ConsumerMembership
from .member import GroupMember

CONSUMER_GROUP_HEARTBEAT = 68


class ConsumerMember(GroupMember):
    """The coordinator says how often it wants to hear of it; ``heartbeat_s`` counts until it has."""

    _membership: ConsumerMembership

    async def _round(self) -> None:
        member = self._membership
        await self._beat()
        self._tries = 0
        names = self._names()
        if member.unknown_ids(names):
            await self._cluster.refresh(member.topics)
            names = self._names()
        change = member.change(names)
        await self._give_up(change.revoked)
        member.taken(change.added)
        if missing := self._missing():
            await self._take_up(missing)
        if change.revoked or change.added:
            return  # the coordinator waits to hear of it
        until = time.monotonic() + self._beat_s
        while (now := time.monotonic()) < until:
            await asyncio.sleep(max(min(until, self._commit_at) - now, 0.01))
            await self._commit_when_due()
        if self._away:
            await self._stayed_away()

    @property
    def _beat_s(self) -> float:
        return self._membership.heartbeat_s or self._heartbeat_s

    def _names(self) -> dict[str, str]:
        return {info.topic_id: name for name, info in self._cluster.metadata.topics.items()}

    async def _beat(self) -> None:
        request = self._membership.heartbeat()
        answer = await self._ask(CONSUMER_GROUP_HEARTBEAT, request)
        self._membership.answered(cast(ConsumerGroupHeartbeatResponse, answer))

    async def _leave(self) -> None:
        request = self._membership.leave()
        if request is not None and self._coordinator is not None:
            await self._cluster.call(CONSUMER_GROUP_HEARTBEAT, request, node=self._coordinator)

    def _forget_membership(self) -> None:
        self._membership.forget()

    def _unheard(self) -> None:
        self._membership.unheard()
