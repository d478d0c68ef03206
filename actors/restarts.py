"""How often something may be restarted before that is no help any more (Erlang's intensity over a period). Pure."""

from __future__ import annotations

from collections import deque


class Intensity:
    """At most ``limit`` restarts in any ``period_s`` seconds."""

    def __init__(self, limit: int, period_s: float) -> None:
        self.limit = limit
        self.period_s = period_s
        self._when: deque[float] = deque()

    def restart(self, now: float) -> bool:
        """Note a restart; False when it is one too many, and whoever is above must decide."""
        while self._when and self._when[0] <= now - self.period_s:
            self._when.popleft()
        self._when.append(now)
        return len(self._when) <= self.limit
