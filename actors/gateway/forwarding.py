"""Where held batches go when their partition is led by another host now: over a lane to that leader, in their order.

Only what was accepted before the move goes this way, and nobody else uses the lane; new requests are answered
NOT_LEADER_OR_FOLLOWER with the new leader's address, behind the answers of these in their connection.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from logeion.wire.errors import ConfigError

from ..hosts import dial_host, load_secret
from ..lanes import Lane, LaneError

if TYPE_CHECKING:
    from ..metadata import BrokerRegistered
    from .links import Link
    from .state import Gateway

log: logging.Logger = logging.getLogger(__name__)

# Between two attempts to dial: the new leader starts within tens of milliseconds.
FIRST_RETRY_S, LAST_RETRY_S = 0.01, 0.05


class Forward:
    """Dials the leader of this epoch on another host, again until ``close``; tells ``link`` when its lane is there."""

    def __init__(self, gateway: Gateway, link: Link, leader: BrokerRegistered, epoch: int) -> None:
        self.node: int = leader.node
        self.epoch = epoch
        self.lane: Lane | None = None
        self._gateway = gateway
        self._link = link
        self._host, self._port = leader.cluster_host, leader.cluster_port
        self._closed = False
        self._task: asyncio.Task[None] = gateway.loop.create_task(self._reach())

    async def _reach(self) -> None:
        topic_id, partition = self._link.key
        target = f"partition-{topic_id}-{partition}"
        try:
            secret = load_secret(self._gateway.config)
        except ConfigError as error:
            # What is held fails in time; a file that went must not cost all other clients their gateway.
            log.error("nothing can be forwarded to node %d: %s", self.node, error)
            return
        retry_s = FIRST_RETRY_S
        while True:
            try:
                lane = await dial_host(
                    self._gateway.loop, self._host, self._port, target, secret=secret, on_closed=self._gone
                )
            except (OSError, LaneError) as error:
                log.debug("%s on node %d: %s", target, self.node, error)
            else:
                peer = lane.peer
                assert peer is not None
                mine = (peer.topic_id, peer.partition) == self._link.key
                if not lane.closed and mine and peer.epoch is not None and peer.epoch >= self.epoch:
                    self.lane = lane
                    self._link.reached(self, peer.epoch)
                    return
                lane.close("not the leader that was dialled")
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _gone(self, lane: Lane, reason: str) -> None:
        if lane is not self.lane:
            return
        self.lane = None
        if not self._closed:
            log.info("the lane to %s on node %d closed: %s", self._link.key, self.node, reason)
            self._task = self._gateway.loop.create_task(self._reach())
            self._link.unreached(self)

    def close(self) -> None:
        """Nothing more goes there."""
        self._closed = True
        self._task.cancel()
        lane, self.lane = self.lane, None
        if lane is not None:
            lane.close("nothing is left to forward")
