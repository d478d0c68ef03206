"""How much unfinished frames of clients may hold, all connections together.

A connection that has not sent a whole frame may be anyone's: it holds FIRST_BYTES at most. Should its first frame be
larger, it waits, unread, for one of SLOTS places, and has a time for it. All unfinished frames of clients together
hold at most GATHERED_MAX: beyond that, the one that began longest ago is ended, which a client that sends at any
decent rate never is.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

FIRST_BYTES = 16 * 1024
SLOTS = 4
# A large first frame has this long, and a second more for each RATE bytes of it.
SLOT_S = 5.0
RATE = 4 * 1024 * 1024
GATHERED_MAX = 256 * 1024 * 1024


class Taker(Protocol):
    """A stream, as the intake sees it."""

    loop: asyncio.AbstractEventLoop
    frames: int

    def proceed(self) -> None:
        """Your large first frame may come in."""

    def close(self, reason: str) -> None:
        """It took too long, or too much."""


class Intake:
    """The account of one process."""

    def __init__(self, slots: int = SLOTS, gathered_max: int = GATHERED_MAX, slot_s: float = SLOT_S) -> None:
        self._slots = slots
        self._slot_s = slot_s
        self._gathered_max = gathered_max
        self._queue: dict[Taker, int] = {}
        self._placed: dict[Taker, asyncio.TimerHandle] = {}
        # In the order in which the frames began.
        self._gathering: dict[Taker, int] = {}
        self._gathered = 0

    def begin(self, stream: Taker, size: int) -> bool:
        """May a frame of this size be received now? If not, ``proceed`` is called when it may."""
        if stream.frames == 0 and stream not in self._placed:
            if len(self._placed) >= self._slots:
                self._queue[stream] = size
                return False
            self._place(stream, size)
        self._gathering[stream] = 0
        return True

    def grown(self, stream: Taker, have: int) -> None:
        """So much of the frame has arrived."""
        before = self._gathering.get(stream)
        if before is None:
            return
        self._gathering[stream] = have
        self._gathered += have - before
        while self._gathered > self._gathered_max:
            oldest = next(iter(self._gathering))
            oldest.close(f"unfinished frames hold more than {self._gathered_max} bytes, and this one is the oldest")

    def end(self, stream: Taker) -> None:
        """The frame is whole, or the connection has ended."""
        self._queue.pop(stream, None)
        self._gathered -= self._gathering.pop(stream, 0)
        timer = self._placed.pop(stream, None)
        if timer is not None:
            timer.cancel()
            self._next()

    def _place(self, stream: Taker, size: int) -> None:
        self._placed[stream] = stream.loop.call_later(
            self._slot_s + size / RATE, stream.close, "a large first frame did not arrive in time"
        )

    def _next(self) -> None:
        while self._queue and len(self._placed) < self._slots:
            stream = next(iter(self._queue))
            self._place(stream, self._queue.pop(stream))
            self._gathering[stream] = 0
            stream.proceed()


intake: Intake = Intake()
