"""One timer for everything a gateway holds or parks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .state import Gateway


class Timers:
    """Wakes the gateway at the earliest deadline of its parked fetches and held batches."""

    def __init__(self, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> None:
        self._gateway = gateway
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._at = 0

    def arm(self, deadline_ms: int) -> None:
        """Something is due then; 0 is nothing. Milliseconds of ``Gateway.now_ms``."""
        if not deadline_ms:
            return
        if self._handle is not None:
            if self._at <= deadline_ms:
                return
            self._handle.cancel()
        self._at = deadline_ms
        # a millisecond more, so that rounding never wakes it before its time
        self._handle = self._loop.call_at(deadline_ms / 1000 + 0.001, self._fire)

    def _fire(self) -> None:
        self._handle = None
        gateway = self._gateway
        now = gateway.now_ms()
        for call in gateway.parking.due(now):
            call.attempt(final=True)
        # An answer may start what waits behind it in its connection, and that may be a partition not spoken to so far.
        for link in list(gateway.links.values()):
            if link.holding.holding:
                link.expire(now)
                self.arm(link.holding.next_deadline)
        self.arm(gateway.parking.next_deadline or 0)

    def close(self) -> None:
        """Nothing is due any more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
