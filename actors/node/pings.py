"""Which actors of this host are asked for a sign of life, and which have not given one in time. Pure.

An actor that somebody waits for in vain is pinged at once, the others now and then, spread evenly. Only those that run
are pinged: a long recovery is no hang. If this Node itself was late (the machine slept, or is overloaded), the answers
may lie unread in its sockets: then everybody gets more time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from .events import AnyEffect, SendPing, Stop

# Everybody is pinged about once in this time, by steps of no less than TICK_S.
ROUND_S = 10.0
TICK_S = 0.1
# How long the answer may take: to somebody's suspicion, and out of the blue.
SUSPECT_S = 0.5
ROUTINE_S = 1.0
# A timer of ours that is later than this says that we did not run.
LATE_S = 0.1
KILL_AGAIN_S = 5.0


class Waiting(msgspec.Struct):
    """A ping that is not answered yet, or (``killed``) an actor that has not ended yet."""

    incarnation: int
    deadline: float
    killed: bool = False


class Pings:
    """``running`` yields the actors that run and can be asked, with their incarnations."""

    def __init__(self, running: Callable[[], Iterable[tuple[str, int]]], emit: Callable[[AnyEffect], None]) -> None:
        self._running = running
        self._emit = emit
        self._waiting: dict[str, Waiting] = {}
        self._round: deque[str] = deque()
        self._next_at: float | None = None
        self._per_tick, self._pause_s = 1, ROUND_S

    @property
    def deadlines(self) -> Iterable[float]:
        """When something is due."""
        if self._next_at is not None:
            yield self._next_at
        for one in self._waiting.values():
            yield one.deadline

    def begin(self, now: float) -> None:
        """From now on."""
        if self._next_at is None:
            self._next_at = now + ROUND_S

    def suspect(self, actor: str, incarnation: int, now: float) -> None:
        """Somebody waits in vain for this one, which runs."""
        one = self._waiting.get(actor)
        if one is None or one.incarnation != incarnation:
            self._ping(actor, incarnation, now + SUSPECT_S)
        elif not one.killed:
            one.deadline = min(one.deadline, now + SUSPECT_S)

    def ponged(self, actor: str, incarnation: int) -> None:
        """It lives."""
        one = self._waiting.get(actor)
        if one is not None and one.incarnation == incarnation and not one.killed:
            del self._waiting[actor]

    def gone(self, actor: str, incarnation: int) -> None:
        """It has ended, or its lane has."""
        one = self._waiting.get(actor)
        if one is not None and one.incarnation == incarnation:
            del self._waiting[actor]

    def _ping(self, actor: str, incarnation: int, deadline: float) -> None:
        self._waiting[actor] = Waiting(incarnation, deadline)
        self._emit(SendPing(actor=actor, incarnation=incarnation))

    def elapsed(self, now: float) -> list[str]:
        """Ping who is next, kill who hangs. Returns the actors that have been killed and have still not ended."""
        stuck = []
        overdue = [(actor, one) for actor, one in self._waiting.items() if one.deadline <= now]
        for actor, one in overdue:
            if not one.killed and now - one.deadline > LATE_S:
                one.deadline = now + SUSPECT_S
                continue
            if one.killed:
                stuck.append(actor)
            one.deadline = now + (KILL_AGAIN_S if one.killed else SUSPECT_S)
            one.killed = True
            self._emit(Stop(actor=actor, incarnation=one.incarnation, force=True))
        if self._next_at is not None and self._next_at <= now:
            self._go_round(now)
        return stuck

    def _go_round(self, now: float) -> None:
        still = dict(self._running())
        if not self._round:
            self._round.extend(still)
            self._per_tick = 1 + int(len(still) * TICK_S / ROUND_S)
            self._pause_s = ROUND_S * self._per_tick / max(self._per_tick, len(still))
        for _ in range(min(self._per_tick, len(self._round))):
            actor = self._round.popleft()
            if actor in still and actor not in self._waiting:
                self._ping(actor, still[actor], now + ROUTINE_S)
        self._next_at = now + self._pause_s
