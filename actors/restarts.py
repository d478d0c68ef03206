"""When to start again what has ended, and when to give up: OTP's intensity over a period, with a back-off. Pure."""

from __future__ import annotations

from collections import deque

import msgspec


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """More than ``intensity`` exits within ``period_s`` seconds: give up.

    The first ``free`` of them are answered at once, the next after ``backoff_min_s``, each further one after twice the
    time, at most ``backoff_max_s``.
    """

    intensity: int = 10
    period_s: float = 30.0
    free: int = 4
    backoff_min_s: float = 0.1
    backoff_max_s: float = 5.0


class Restarts:
    """The exits of one child, or of one tree."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.total: int = 0
        self._exits: deque[float] = deque()

    def exited(self, now: float) -> float | None:
        """It has ended at ``now`` (monotonic seconds): start it again after this many seconds; None: give up.

        >>> child = Restarts(Policy(intensity=3, free=2))
        >>> [child.exited(at) for at in (0.0, 1.0, 2.0, 3.0)]
        [0.0, 0.0, 0.1, None]
        """
        policy = self.policy
        self.total += 1
        self._exits.append(now)
        while self._exits[0] <= now - policy.period_s:
            self._exits.popleft()
        count = len(self._exits)
        if count > policy.intensity:
            return None
        if count <= policy.free:
            return 0.0
        # The exponent is bounded: a float overflows long after the back-off has reached its maximum.
        steps = min(count - policy.free - 1, 64)
        return float(min(policy.backoff_max_s, policy.backoff_min_s * 2**steps))

    def cause(self, what: str) -> str:
        """The sentence to give up with."""
        return f"{what} ended {len(self._exits)} times within {self.policy.period_s:.0f} s"
