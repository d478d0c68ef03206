"""Virtual time: what happens next, in one order for one seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Violated(AssertionError):
    """An invariant does not hold."""


class Stuck(Violated):
    """Nothing is wrong with what is, but it does not come to an end: liveness, not safety."""


# More steps than any seed needs: somebody goes round in circles without time passing.
STEPS_MAX = 100_000


class Engine:
    """``time`` is seconds since the world began; ``random`` the only source of chance in it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.time = 0.0
        self.steps = 0
        self.trace: list[str] = []
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, when: float, what: Callable[..., None], *arguments: Any) -> None:
        """Do this then, or now if that is past."""
        self._order += 1
        heappush(self._events, (when if when > self.time else self.time, self._order, what, arguments))

    def after(self, delay: float, what: Callable[..., None], *arguments: Any) -> None:
        """Do this so much later."""
        self._order += 1
        heappush(self._events, (self.time + delay, self._order, what, arguments))

    def next(self) -> None:
        """Do what comes next."""
        self.time, _, what, arguments = heappop(self._events)
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Stuck(f"{STEPS_MAX} steps and no end; the last was {what} {arguments}")
        what(*arguments)

    def run(self, until: float) -> None:
        """Let time pass."""
        events, step = self._events, self.next
        while self.time < until and events:
            step()
        self.time = max(self.time, until)

    def clear(self) -> None:
        """Nothing will happen any more."""
        self._events.clear()

    def note(self, line: str) -> None:
        """A line of the story that this seed tells."""
        self.trace.append(f"{self.time:9.4f} {line}")
