"""The lanes to the other voters, one for each direction: this end only asks and tells, and listens for answers.

A voter is dialled when there is something for it. One whose address nobody has told us (it leads, and was added since
our disk was lost) is told by the lane that it has dialled itself. What cannot be delivered is dropped: the quorum's
machines say again what matters, and a question that did not leave is given back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from ..lanes import Lane, LaneBusy, LaneError, OnClosed, OnMessage, OnReply
from ..messages import AnyMessage, Message

# What waits for a lane that is being dialled; the oldest gives way. Of what is told only the newest counts.
TOLD_MAX, ASKED_MAX = 8, 1_000
REDIAL_S = 0.05


class Dial(Protocol):
    """Dials the Controller of the host that has this cluster port."""

    def __call__(
        self, host: str, port: int, *, on_message: OnMessage | None = None, on_closed: OnClosed | None = None
    ) -> Awaitable[Lane]: ...


class NotReached(LaneError):
    """The request did not leave."""


class Peers:
    """``addresses`` knows where a node's cluster port is, ``caller`` the lane by which a node has dialled us;
    ``on_message`` gets what comes the other way, ``on_gone`` is told when a lane breaks."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dial: Dial,
        addresses: Callable[[int], list[tuple[str, int]]],
        caller: Callable[[int], Lane | None],
        on_message: OnMessage,
        on_gone: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._dial = dial
        self._addresses = addresses
        self._caller = caller
        self._on_message = on_message
        self._on_gone = on_gone
        self._peers: dict[int, _Peer] = {}
        self._closed = False

    def tell(self, node: int, message: Message) -> None:
        """Say it, if it can be said now or as soon as there is a lane."""
        peer = self._peer(node)
        lane = peer.lane
        if lane is None and not self._addresses(node):
            lane = self._caller(node)
        if lane is not None:
            # One that does not read is told nothing more until it does.
            if not lane.congested:
                lane.tell(message)
        elif peer.dialling():
            peer.told.append(message)

    def call(self, node: int, message: Message, on_reply: OnReply, timeout_s: float) -> None:
        """Ask it; the answer or a ``LaneError`` comes later, ``NotReached`` where the question did not leave."""
        peer = self._peer(node)
        if peer.lane is not None:
            peer.ask(message, on_reply, timeout_s)
        elif peer.dialling():
            peer.wait(message, on_reply, timeout_s)
        else:
            self._loop.call_soon(on_reply, NotReached(f"there is no lane to node {node}"))

    def close(self) -> None:
        """End every lane."""
        self._closed = True
        for peer in self._peers.values():
            peer.close()

    def _peer(self, node: int) -> _Peer:
        if node not in self._peers:
            self._peers[node] = _Peer(self, node)
        return self._peers[node]


class _Peer:
    def __init__(self, owner: Peers, node: int) -> None:
        self.lane: Lane | None = None
        self._owner = owner
        self._node = node
        self.told: deque[Message] = deque(maxlen=TOLD_MAX)
        self._asked: deque[tuple[Message, OnReply, float]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._again = 0.0

    def dialling(self) -> bool:
        """Whether there will be a lane, or it will be known that there is none."""
        owner = self._owner
        if self._task is None and not owner._closed and owner._loop.time() >= self._again:
            self._task = owner._loop.create_task(self._open())
        return self._task is not None

    def wait(self, message: Message, on_reply: OnReply, timeout_s: float) -> None:
        self._asked.append((message, on_reply, timeout_s))
        if len(self._asked) > ASKED_MAX:
            self._give_back(self._asked.popleft()[1])

    def ask(self, message: Message, on_reply: OnReply, timeout_s: float) -> None:
        lane = self.lane
        assert lane is not None
        if lane.closed:
            self._owner._loop.call_soon(on_reply, NotReached("the lane is closed"))
            return

        def answered(reply: AnyMessage | LaneError) -> None:
            on_reply(NotReached(str(reply)) if isinstance(reply, LaneBusy) else reply)

        lane.call(message, on_reply=answered, timeout_s=timeout_s)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self.lane is not None:
            self.lane.close()

    async def _open(self) -> None:
        owner = self._owner
        try:
            for host, port in owner._addresses(self._node):
                try:
                    lane = await owner._dial(host, port, on_message=owner._on_message, on_closed=self._on_closed)
                except (OSError, LaneError):
                    continue
                if not lane.closed:
                    self.lane = lane
                    break
        finally:
            self._task = None
            self._again = owner._loop.time() + REDIAL_S
        if self.lane is not None:
            for message in self.told:
                self.lane.tell(message)
        self.told.clear()
        asked, self._asked = self._asked, deque()
        for message, on_reply, timeout_s in asked:
            if self.lane is None:
                self._give_back(on_reply)
            else:
                self.ask(message, on_reply, timeout_s)

    def _give_back(self, on_reply: OnReply) -> None:
        self._owner._loop.call_soon(on_reply, NotReached(f"there is no lane to node {self._node}"))

    def _on_closed(self, lane: Lane, reason: str) -> None:
        if lane is self.lane:
            self.lane = None
            self._again = 0.0
            if not self._owner._closed:
                self._owner._on_gone(self._node)
