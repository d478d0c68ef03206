"""The lanes a gateway dials: to the Controller, whose log it follows, and to every partition that runs here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from ..lanes import Lane, LaneError, dial, socket_path
from ..messages import Advanced, AnyMessage, Committed, PartitionRunning, PartitionStopped, Subscribe
from ..stream import Frame
from .links import Key
from .state import Gateway

log: logging.Logger = logging.getLogger(__name__)

# Between two attempts to dial, in seconds: a process that was just killed is back within tens of milliseconds. Clients
# wait for a Controller that takes longer; of a partition Node says when it runs.
FIRST_RETRY_S, CONTROLLER_RETRY_S, LAST_RETRY_S = 0.01, 0.05, 1.0

SUBSCRIBE_S = 30.0


class Following:
    """Keeps these lanes up. What Node says (``node_said``) decides which partitions are dialled, and when."""

    def __init__(self, gateway: Gateway, run_dir: Path) -> None:
        self._gateway = gateway
        self._run_dir = run_dir
        self._loop: asyncio.AbstractEventLoop = gateway.loop
        # The leader that serves according to Node, and the lane to it (open or being opened).
        self._running: dict[Key, int] = {}
        self._lanes: dict[Key, Lane] = {}
        self._keys: dict[Lane, Key] = {}
        self._dialling: dict[Key, asyncio.Task[None]] = {}
        # Set when Node says that the leader which is being dialled serves now: no need to sleep on.
        self._news: dict[Key, asyncio.Event] = {}
        self._controller_gone = asyncio.Event()
        self._controller_task: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Dial the Controller; partitions follow when Node names them."""
        self._controller_task = self._loop.create_task(self._follow_controller())

    def close(self) -> None:
        """Dial nobody any more."""
        self._closed = True
        if self._controller_task is not None:
            self._controller_task.cancel()
        for task in list(self._dialling.values()):
            task.cancel()

    # The Controller -------------------------------------------------------------------------------------------------

    async def _follow_controller(self) -> None:
        """One lane after another, for as long as the gateway lives."""
        retry_s = FIRST_RETRY_S
        while True:
            try:
                lane = await dial(
                    self._loop,
                    socket_path(self._run_dir, "controller"),
                    on_message=self._on_controller_message,
                    on_closed=self._on_controller_closed,
                )
                self._gateway.controller_connected(lane)
                self._subscribe(lane)
                retry_s = FIRST_RETRY_S
                await self._controller_gone.wait()
                self._controller_gone.clear()
            except (OSError, LaneError):
                pass  # not up yet, or just killed
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, CONTROLLER_RETRY_S)

    def _subscribe(self, lane: Lane) -> None:
        def on_reply(reply: AnyMessage | LaneError) -> None:
            # A callback, not an await: what is committed next may follow in the same read.
            if isinstance(reply, Committed):
                self._on_committed(lane, reply)
            else:
                lane.close(f"subscribing to the metadata log: {reply}")

        lane.call(Subscribe(from_offset=self._gateway.applied), on_reply=on_reply, timeout_s=SUBSCRIBE_S)

    def _on_controller_closed(self, lane: Lane, reason: str) -> None:
        log.info("the lane to the controller closed: %s", reason)
        self._gateway.controller_connected(None)
        self._controller_gone.set()

    def _on_controller_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        if isinstance(message, Committed):
            self._on_committed(lane, message)

    def _on_committed(self, lane: Lane, message: Committed) -> None:
        gateway = self._gateway
        if message.offset > gateway.applied and not message.snapshot:
            lane.close(f"metadata from {message.offset} on, but only {gateway.applied} is applied")
            return
        if message.snapshot and gateway.image.goes_back(gateway.applied, message.next_offset, message.records):
            lane.close(f"a snapshot of the metadata up to {message.next_offset}, but {gateway.applied} is applied")
            return
        gateway.quorum_leader = message.leader
        gateway.apply(message.offset, message.next_offset, message.records, message.snapshot)
        for key in [key for key in self._running if key not in self._lanes]:
            self._dial(key)

    # Partitions -----------------------------------------------------------------------------------------------------

    def node_said(self, message: AnyMessage) -> None:
        """PartitionRunning or PartitionStopped."""
        if isinstance(message, PartitionRunning):
            key = (message.topic_id, message.partition)
            self._running[key] = max(message.epoch, self._running.get(key, -1))
            if key in self._news:
                self._news[key].set()
            self._dial(key)
        elif isinstance(message, PartitionStopped):
            key = (message.topic_id, message.partition)
            if self._running.get(key, -1) <= message.epoch:
                self._running.pop(key, None)
            if message.cause:
                self._gateway.partition_offline(*key, message.cause, message.code)

    def _dial(self, key: Key) -> None:
        """Have a lane to this partition's leader, if the image says that it is here and Node that it runs."""
        if self._gateway.leader_code(*key) or key in self._dialling:
            return
        lane = self._lanes.get(key)
        if lane is not None and lane.peer is not None and (lane.peer.epoch or 0) >= self._running[key]:
            return
        if lane is not None:
            # What follows its end dials the new leader, once.
            lane.close("a newer leader serves")
            return
        self._dialling[key] = self._loop.create_task(self._reach(key))

    async def _reach(self, key: Key) -> None:
        """Dial until the leader that Node named answers, or Node says that it stopped."""
        retry_s = FIRST_RETRY_S
        path = socket_path(self._run_dir, f"partition-{key[0]}-{key[1]}")
        news = self._news[key] = asyncio.Event()
        try:
            while key in self._running:
                try:
                    lane = await dial(
                        self._loop, path, on_message=self._on_partition_message, on_closed=self._on_partition_closed
                    )
                except (OSError, LaneError):
                    lane = None
                if lane is not None and self._opened(key, lane):
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), retry_s)
                retry_s = FIRST_RETRY_S if news.is_set() else min(2 * retry_s, LAST_RETRY_S)
                news.clear()
        finally:
            del self._dialling[key], self._news[key]

    def _opened(self, key: Key, lane: Lane) -> bool:
        peer = lane.peer
        topic = self._gateway.image.topic_by_id(key[0])
        assert peer is not None
        if (
            lane.closed
            or topic is None
            or self._gateway.leader_code(*key)
            or (peer.topic_id, peer.partition) != key
            or peer.epoch is None
            or peer.epoch < self._running.get(key, -1)
        ):
            lane.close("not the leader that was dialled")
            return False
        self._lanes[key] = lane
        self._keys[lane] = key
        self._gateway.link(topic, key[1]).connected(lane, peer.epoch)
        self._gateway.changed()
        return True

    def _on_partition_closed(self, lane: Lane, reason: str) -> None:
        key = self._keys.pop(lane, None)
        if key is None:
            return
        if self._lanes.get(key) is lane:
            del self._lanes[key]
        link = self._gateway.links.get(key)
        if link is not None:
            link.disconnected(lane)
        if key in self._running and not self._closed:
            # Most likely its process ended, and Node will say so; but it may also be this lane alone.
            self._dial(key)

    def _on_partition_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        key = self._keys.get(lane)
        link = self._gateway.links.get(key) if key is not None else None
        if isinstance(message, Advanced) and link is not None and link.lane is lane:
            link.learn(message)
