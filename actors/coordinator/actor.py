"""Coordinator: one consumer group, or the index of all groups of one offsets partition, as a process."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from logeion.wire.errors import RequestTimedOutError, UnknownServerError

from ..config import Config
from ..groups import coordinator_socket, index_socket
from ..lanes import Lane, LaneError, LaneListener, dial, socket_path
from ..messages import (
    AnyMessage,
    ConsumerHeartbeat,
    GroupRead,
    Message,
    OpenWriter,
    ReadGroup,
    TopicsGone,
    WriterOpened,
)
from ..node.companions import IDLE, UPKEEP
from ..runtime import ActorBase, ActorSpec, Shell
from ..stream import Frame
from ..suspicion import Suspicion
from .consumer import ConsumerGroup
from .hosting import Hosting
from .index_hosting import IndexHosting
from .machine import GroupMachine
from .records import unpack
from .step import Settings
from .topics import Topics

log: logging.Logger = logging.getLogger(__name__)

# Exit codes that are no crash: idle, and what this actor stands on is gone (EX_TEMPFAIL).
EXIT_IDLE, EXIT_LOST = 0, 75
RETRY_S = 0.005
# How long a start may wait for its partition and its index.
START_S = 15.0
# How long an idle Coordinator waits for its gateways to hang up.
GOODBYE_S = 0.5


def settings_of(config: Config) -> Settings:
    """The machine's settings from the node's."""
    groups = config.groups
    return Settings(
        min_session_timeout_ms=groups.min_session_timeout_ms,
        max_session_timeout_ms=groups.max_session_timeout_ms,
        initial_rebalance_delay_ms=groups.initial_rebalance_delay_ms,
        max_size=groups.max_size,
        offset_metadata_max_bytes=groups.offset_metadata_max_bytes,
        offsets_retention_ms=groups.offsets_retention_ms,
        consumer_session_timeout_ms=groups.consumer_session_timeout_ms,
        consumer_heartbeat_interval_ms=groups.consumer_heartbeat_interval_ms,
        consumer_max_size=groups.consumer_max_size,
    )


class CoordinatorShell(Shell):
    """Around a ``Hosting``, or an ``IndexHosting`` where no group is named."""

    def __init__(
        self, spec: ActorSpec, loop: asyncio.AbstractEventLoop, tell_supervisor: Callable[[Message], None]
    ) -> None:
        super().__init__(spec, loop, tell_supervisor)
        self.listener: LaneListener | None = None
        self.index: IndexHosting | None = None
        self.hosting: Hosting | None = None
        self.suspicion: Suspicion = Suspicion(loop, self._tell_node)
        self.topics: Topics = Topics(loop, spec.run_dir, self._topics_changed)
        # Heartbeats of a consumer group that wait until it is known which topics there are.
        self._early: list[tuple[Lane, int, ConsumerHeartbeat]] = []

    async def start(self) -> None:
        """Open the session, load, listen."""
        spec = self.spec
        assert spec.topic_id is not None and spec.partition is not None
        deadline = self.loop.time() + START_S
        name = f"partition-{spec.topic_id}-{spec.partition}"
        partition = await self._dial(name, deadline)
        if spec.group is None:
            self.index = IndexHosting(self, partition, settings_of(self.config), self.topics)
            await self.index.start()
            path = socket_path(spec.run_dir, index_socket(spec.topic_id, spec.partition))
            self.listener = LaneListener(self.loop, path, self.index.on_lane)
        else:
            await self._load(partition, spec.group, deadline)
            path = socket_path(spec.run_dir, coordinator_socket(spec.group))
            self.listener = LaneListener(self.loop, path, self._on_lane)

    async def stop(self) -> None:
        """Everything that was answered is in the log."""
        if self.listener is not None:
            self.listener.close()

    def on_node(self, request: int, message: AnyMessage) -> None:
        """An index that asked for upkeep is told who runs; it learns that from who reads its group."""

    def _tell_node(self, message: Message) -> None:
        if self.node_lane is not None:
            self.node_lane.tell(message)

    # What it stands on

    async def _dial(
        self, name: str, deadline: float, on_message: Callable[[Lane, int, AnyMessage, Frame], None] | None = None
    ) -> Lane:
        """The actor behind that socket, once it is the one of this epoch; that lane's end is this process's end."""
        while True:
            try:
                lane = await dial(
                    self.loop, socket_path(self.spec.run_dir, name), on_message=on_message, on_closed=self._lost
                )
            except (OSError, LaneError):
                lane = None
            if lane is not None:
                assert lane.peer is not None
                if lane.peer.epoch == self.spec.epoch:
                    return lane
                if (lane.peer.epoch or -1) > (self.spec.epoch or -1):
                    self.lost(f"epoch {self.spec.epoch} is over, {lane.peer.actor} has {lane.peer.epoch}")
                lane.on_closed = None
                lane.close("an older epoch")
            if self.loop.time() >= deadline:
                self.lost(f"{name} of epoch {self.spec.epoch} does not answer")
            await asyncio.sleep(RETRY_S)

    def _lost(self, lane: Lane, reason: str) -> None:
        self.lost(f"the lane to {lane.peer.actor if lane.peer is not None else 'nobody yet'} closed: {reason}")

    def lost(self, reason: str) -> None:
        """Doubt means exit: Node starts the next incarnation when it can stand on something."""
        log.warning("%s ends: %s", self.spec.actor, reason)
        os._exit(EXIT_LOST)

    async def _load(self, partition: Lane, group: str, deadline: float) -> None:
        spec = self.spec
        assert spec.epoch is not None
        machine = GroupMachine(group, settings_of(self.config))
        opened = await self._ask(
            partition, OpenWriter(epoch=spec.epoch, writer=group, incarnation=spec.incarnation), deadline
        )
        if not isinstance(opened, WriterOpened):
            raise UnknownServerError(f"{type(opened).__name__} came where WriterOpened was due")
        assert spec.topic_id is not None and spec.partition is not None
        index = await self._dial(index_socket(spec.topic_id, spec.partition), deadline, self._on_index_message)
        at = 0
        gone: list[str] = []
        while at >= 0:
            read = await self._ask(index, ReadGroup(group=group, end=opened.end, at=at), deadline)
            if not isinstance(read, GroupRead):
                raise UnknownServerError(f"{type(read).__name__} came where GroupRead was due")
            for record in unpack(read.records):
                machine.replay(record)
            at, gone = read.next, read.gone
        if isinstance(machine.membership, ConsumerGroup):
            await self._know_topics(machine, deadline)
        hosting = Hosting(
            partition,
            machine,
            epoch=spec.epoch,
            writer=group,
            incarnation=spec.incarnation,
            idle_s=self.config.groups.idle_exit_ms / 1000,
            fatal=self.lost,
            went_idle=self._went_idle,
            suspicion=self.suspicion,
        )
        hosting.start(upkeep=UPKEEP in spec.configs)
        self.hosting = hosting
        if gone:
            hosting.follow(machine.topics_gone(gone))
        if self.topics.known.is_set():
            self._topics_changed()

    async def _ask(self, lane: Lane, message: Message, deadline: float) -> Any:
        try:
            return await lane.request(message, timeout_s=max(0.1, deadline - self.loop.time()))
        except LaneError as error:
            self.lost(f"{type(message).__name__} was not answered: {error}")

    async def _know_topics(self, machine: GroupMachine, deadline: float) -> None:
        self.topics.start()
        try:
            await asyncio.wait_for(self.topics.known.wait(), max(0.1, deadline - self.loop.time()))
        except TimeoutError as error:
            raise RequestTimedOutError("the metadata log cannot be followed") from error
        machine.topics = self.topics.partitions

    # The group

    def _on_lane(self, lane: Lane) -> None:
        lane.on_message = self._on_message

    def _on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        assert self.hosting is not None
        if isinstance(message, ConsumerHeartbeat) and not self.topics.known.is_set():
            # The first one of a consumer group: the server assigns, so it has to know what.
            self.topics.start()
            self._early.append((lane, request, message))
        else:
            self.hosting.on_message(lane, request, message, frame)

    def _on_index_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        if isinstance(message, TopicsGone) and self.hosting is not None:
            self.hosting.follow(self.hosting.machine.topics_gone(message.topic_ids))

    def _topics_changed(self) -> None:
        if self.index is not None:
            self.index.topics_changed()
        hosting = self.hosting
        if hosting is None:
            return
        hosting.follow(hosting.machine.topics_changed(self.topics.partitions, hosting.now()))
        early, self._early = self._early, []
        for lane, request, message in early:
            hosting.handle(lane, request, message)

    # Idle

    def _went_idle(self) -> None:
        """Say so first: from then on nobody new is sent here."""
        self.report("stopping", IDLE)
        self._goodbye(self.loop.time() + GOODBYE_S)

    def _goodbye(self, deadline: float) -> None:
        if self.listener is not None and self.listener.lanes and self.loop.time() < deadline:
            self.loop.call_later(0.01, self._goodbye, deadline)
            return
        log.info("%s is idle and ends", self.spec.actor)
        os._exit(EXIT_IDLE)


class Coordinator(ActorBase):
    """The Thespian actor around it."""

    shell: type[Shell] = CoordinatorShell
