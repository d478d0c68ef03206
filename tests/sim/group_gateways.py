"""A gateway whose clients are members of groups and ask it in messages, not in Kafka's bytes.

It finds their Coordinators, has them started and asks them with the product's own code.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from logeion.actors import messages as m
from logeion.actors.gateway.asking import Deadline
from logeion.actors.gateway.group_membership import ANSWER_S
from logeion.actors.gateway.group_offsets import TIMEOUT_S
from logeion.actors.groups import OFFSETS_TOPIC
from logeion.wire.errors import KafkaError
from tests.sim.gateways import GatewayProcess

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.network import Port
    from tests.sim.world import World

# What each question is answered by.
ANSWERS: dict[type[m.Message], type[m.Message]] = {
    m.JoinGroup: m.GroupJoined,
    m.SyncGroup: m.GroupSynced,
    m.HeartbeatGroup: m.GroupAnswered,
    m.LeaveGroup: m.GroupLeft,
    m.CommitOffsets: m.OffsetsCommitted,
    m.ConsumerHeartbeat: m.ConsumerHeartbeatAnswered,
}


class GroupGateway(GatewayProcess):
    """Each of its connections is of one or the other kind, by what comes first: a question or bytes."""

    def __init__(self, world: World, on: Host, actor: str, incarnation: int) -> None:
        super().__init__(world, on, actor, incarnation)
        # What each connection has asked and nobody has begun to answer, and the one that is being answered.
        self._asked: dict[Port, deque[tuple[int, m.AnyMessage]]] = {}
        self._answering: dict[Port, asyncio.Task[None]] = {}

    def coordinator(self, group: str) -> int | None:
        """FindCoordinator: the node, or None while there is none."""
        topic = self.gateway.image.topic(OFFSETS_TOPIC)
        try:
            return None if topic is None else self.gateway.groups.node_of(topic, group)
        except KafkaError:
            return None

    def accepted(self, port: Port) -> None:
        port.on_message = self._first
        port.on_closed = self._lost

    def _first(self, port: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        if payload:
            super().accepted(port)
            port.on_message(port, request, message, payload)
            return
        self._asked[port] = deque()
        port.on_message = self._take
        self._take(port, request, message, payload)

    def _take(self, port: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        """A connection's requests are answered one after the other."""
        self._asked[port].append((request, message))
        if port not in self._answering:
            self._answering[port] = self.loop.create_task(self._answer(port))

    async def _answer(self, port: Port) -> None:
        # Python's ``wait_for`` may swallow that it was cancelled; then this goes on for one more answer.
        while waiting := self._asked.get(port):
            request, message = waiting.popleft()
            try:
                reply = await self._reply(message)
            except KafkaError as error:
                reply = m.Refused(code=error.code, reason=str(error))
            port.reply(request, reply)
        self._answering.pop(port, None)

    def _lost(self, port: Port) -> None:
        """The client has hung up: nothing more is done for it."""
        self._asked.pop(port, None)
        task = self._answering.pop(port, None)
        if task is not None:
            task.cancel()

    def _named(self, one: m.OffsetToCommit) -> m.OffsetToCommit:
        """As it is handed on: a position goes with its topic."""
        topic = self.gateway.image.topic(one.topic)
        return one if topic is None else msgspec.structs.replace(one, topic_id=topic.topic_id)

    async def _reply(self, message: m.AnyMessage) -> m.Message:
        groups = self.gateway.groups
        if isinstance(message, m.FetchOffsets):
            return await groups.positions(message, Deadline(TIMEOUT_S))
        if isinstance(message, m.CommitOffsets):
            message = msgspec.structs.replace(message, offsets=[self._named(one) for one in message.offsets])
        return await groups.ask(message.group, message, ANSWERS[type(message)], ANSWER_S)  # type: ignore[union-attr]
