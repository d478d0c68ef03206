"""Who asks and gets no answer suspects: is the peer's process stuck, though its socket is open?

What must be answered at once and is not within ``PATIENCE_S`` is told to Node, which pings the peer and kills it if it
hangs. An answer that may well take its time (an append that waits for followers) is no such sign; there the peer is
asked something cheap, and soon, because that has to stay unanswered first.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

from logeion.wire.buffers import Buffer

from .lanes import Lane, LaneError
from .messages import AnyMessage, Message, Suspect

PATIENCE_S = 0.5
PROBE_AFTER_S = 0.1

# How long the answer to a probe is waited for; by then its lane has closed, or the peer was found alive.
PROBE_S = 10.0

Reply = TypeVar("Reply")


class Suspicion:
    """Requests without an answer. ``tell`` says something to Node; there is one timer, and none while idle."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Callable[[Message], None] = lambda message: None) -> None:
        self.tell = tell
        self._loop = loop
        self._numbers = itertools.count()
        # Number to (when it is too late, of whom, what to ask him first; None: suspect him).
        self._waiting: dict[int, tuple[float, Lane, Message | None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, lane: Lane, probe: Message | None = None) -> int:
        """A request was sent on this lane; the result is for ``end``. ``probe`` is what to ask before suspecting."""
        number = next(self._numbers)
        due = self._loop.time() + (PATIENCE_S if probe is None else PROBE_AFTER_S)
        self._waiting[number] = (due, lane, probe)
        if self._timer is None or due < self._timer.when():
            self._arm(due)
        return number

    def end(self, number: int) -> None:
        """Answered, or not waited for any more."""
        self._waiting.pop(number, None)

    def call(
        self, lane: Lane, message: Message, *, on_reply: Callable[[AnyMessage | LaneError], None], timeout_s: float
    ) -> None:
        """``lane.call`` of something that is answered at once by whoever lives."""
        number = self.begin(lane)

        def answered(reply: AnyMessage | LaneError) -> None:
            self.end(number)
            on_reply(reply)

        lane.call(message, on_reply=answered, timeout_s=timeout_s)

    async def request(
        self, lane: Lane, message: Message, payload: Sequence[Buffer] = (), *, timeout_s: float
    ) -> AnyMessage:
        """``lane.request`` of something that is answered at once by whoever lives."""
        number = self.begin(lane)
        try:
            return await lane.request(message, payload, timeout_s=timeout_s)
        finally:
            self.end(number)

    def close(self) -> None:
        """Suspect nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        late: dict[Lane, Message | None] = {}
        for number, (due, lane, probe) in list(self._waiting.items()):
            if due > now:
                continue
            if lane.closed:
                del self._waiting[number]
                continue
            # It counts again if it is still there after a while; one suspicion or probe a lane is enough for now.
            self._waiting[number] = (now + PATIENCE_S, lane, probe)
            late[lane] = probe if late.get(lane, probe) is not None else None
        for lane, probe in late.items():
            if probe is not None:
                self.call(lane, probe, on_reply=lambda reply: None, timeout_s=PROBE_S)
            elif lane.peer is not None:
                self.tell(Suspect(actor=lane.peer.actor, incarnation=lane.peer.incarnation))
        if self._waiting:
            self._arm(min(due for due, _, _ in self._waiting.values()))
