"""This node's heartbeats: when the next is due, which way it goes, and what the answers say. Pure.

One is outstanding. It goes to this host's Controller, which forwards it to the one that leads; unanswered for a while,
the next goes to another voter's. The way that worked is kept, but this host's own is tried again now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .. import messages as m
from .events import AnyEffect, Beat, Drained

# Unanswered for so long, the next one goes another way.
PATIENCE_S = 0.3
# What was refused or could not be sent is repeated after this.
AGAIN_S = 0.05
# How long a detour is kept before this host's own Controller is tried again.
DETOUR_S = 5.0


class Beats:
    """``voters`` are the other nodes whose Controllers may be asked, until the metadata log knows of others. Nothing is
    sent before ``start``."""

    def __init__(self, node: int, interval_s: float, voters: Sequence[int], emit: Callable[[AnyEffect], None]) -> None:
        self.node = node
        self.interval_s = interval_s
        self._configured = list(voters)
        self.voters: list[int] = []
        self.stopping: bool = False
        self.due: float | None = None
        self._emit = emit
        self._attempt = self._first = 0
        self._waiting = False
        self._began = 0.0
        # 0 is this host's own Controller, the others follow in their order.
        self._route = 0
        self._home_at = 0.0
        self._drains: dict[int, float] = {}
        self.know(())

    def know(self, voters: Iterable[int]) -> None:
        """Who votes as the metadata log says, if it does: the first to be asked, then those of the configuration."""
        known = dict.fromkeys((*sorted(voters), *self._configured))
        known.pop(self.node, None)
        if self.voters != list(known):
            self.voters, self._route = list(known), 0

    def start(self, now: float) -> None:
        """The node is registered (again)."""
        self._waiting = False
        self.due = now

    def pause(self) -> None:
        """Its registration is not valid any more."""
        self.due = None
        self._waiting = False

    def hurry(self, now: float) -> None:
        """There is news for the controller: the next one goes out now."""
        if self.due is not None and not self._waiting:
            self.due = now

    @property
    def deadlines(self) -> list[float]:
        """When something is due; the list is the caller's own."""
        moments = list(self._drains.values())
        if self.due is not None:
            moments.append(self.due)
        return moments

    def elapsed(self, now: float, broker_epoch: int | None, applied: int) -> None:
        """Send what is due."""
        for request in [request for request, deadline in self._drains.items() if deadline <= now]:
            self._drained(request)
        if self.due is None or self.due > now or broker_epoch is None:
            return
        if self._waiting:
            self._detour(now)
        else:
            self._began, self._first = now, self._attempt + 1
            if self._route and self._home_at <= now:
                self._route = 0
        self._waiting = True
        self._attempt += 1
        self.due = now + PATIENCE_S
        message = m.Heartbeat(node=self.node, broker_epoch=broker_epoch, applied=applied, stopping=self.stopping)
        voter = self.voters[self._route - 1] if self._route else None
        self._emit(Beat(attempt=self._attempt, message=message, voter=voter))

    def _detour(self, now: float) -> None:
        self._route = (self._route + 1) % (len(self.voters) + 1)
        self._home_at = now + DETOUR_S

    def answered(self, attempt: int, may_stop: bool, now: float) -> None:
        """An answer to any attempt since the last answer will do."""
        if not self._waiting or attempt < self._first:
            return
        self._waiting = False
        self.due = max(now, self._began + self.interval_s)
        if may_stop:
            for request in list(self._drains):
                self._drained(request)

    def failed(self, attempt: int, now: float) -> None:
        """It was refused, or could not be sent; only the newest attempt counts."""
        if self._waiting and attempt == self._attempt:
            self.due = now + AGAIN_S

    def drain(self, request: int, timeout_s: float, now: float) -> None:
        """Ask for a controlled shutdown from now on; ``request`` is answered in time, whatever comes of it."""
        self.stopping = True
        self._drains[request] = now + timeout_s
        self.hurry(now)

    def drained(self) -> None:
        """Nobody else could lead anything: whoever waits may go on."""
        for request in list(self._drains):
            self._drained(request)

    def _drained(self, request: int) -> None:
        del self._drains[request]
        self._emit(Drained(request=request))
