"""Lanes from Node to other hosts' Controllers, for heartbeats that this host's own does not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from .. import messages as m
from ..hosts import dial_host
from ..lanes import Lane, LaneClosed, LaneError, OnReply

log: logging.Logger = logging.getLogger(__name__)

# A lane that has not been used for so long is closed.
IDLE_S = 30.0
REQUEST_S = 2.0


class Detours:
    """``addresses`` maps the nodes of the metadata quorum to their cluster ports, as they are known now."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, addresses: Callable[[], Mapping[int, tuple[str, int]]], secret: bytes
    ) -> None:
        self._loop = loop
        self._addresses = addresses
        self._secret = secret
        self._lanes: dict[int, Lane] = {}
        self._idle: dict[int, asyncio.TimerHandle] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def close(self) -> None:
        """Ask nobody any more."""
        for timer in self._idle.values():
            timer.cancel()
        for task in self._tasks.values():
            task.cancel()
        for lane in list(self._lanes.values()):
            lane.close()

    def call(self, voter: int, message: m.Message, on_reply: OnReply) -> None:
        """Ask that node's Controller. A lane is made if there is none; while one is being made, the answer is no."""
        lane, address = self._lanes.get(voter), self._addresses().get(voter)
        if lane is not None and not lane.closed:
            self._stay(voter)
            lane.call(message, on_reply=on_reply, timeout_s=REQUEST_S)
        elif voter in self._tasks or address is None:
            self._loop.call_soon(on_reply, LaneClosed(f"there is no lane to the controller of node {voter}"))
        else:
            self._tasks[voter] = self._loop.create_task(self._dial(voter, address, message, on_reply))

    async def _dial(self, voter: int, address: tuple[str, int], message: m.Message, on_reply: OnReply) -> None:
        host, port = address
        try:
            lane = await dial_host(
                self._loop, host, port, "controller", secret=self._secret, on_message=None, on_closed=self._on_closed
            )
        except (OSError, LaneError) as error:
            log.debug("no lane to the controller of node %d: %s", voter, error)
            on_reply(LaneClosed(str(error)))
            return
        finally:
            del self._tasks[voter]
        self._lanes[voter] = lane
        self._stay(voter)
        lane.call(message, on_reply=on_reply, timeout_s=REQUEST_S)

    def _stay(self, voter: int) -> None:
        timer = self._idle.get(voter)
        if timer is not None:
            timer.cancel()
        self._idle[voter] = self._loop.call_later(IDLE_S, self._leave, voter)

    def _leave(self, voter: int) -> None:
        lane = self._lanes.pop(voter, None)
        if lane is not None:
            lane.close("not needed for a while")

    def _on_closed(self, lane: Lane, reason: str) -> None:
        for voter in [voter for voter, one in self._lanes.items() if one is lane]:
            del self._lanes[voter]
