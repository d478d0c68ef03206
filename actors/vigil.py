"""Whether a process that owes a sign of life hangs, or is only slow. Pure.

Silence alone proves little: on an overloaded machine everybody is silent. So what the kernel says of the process counts
as well. One that is stopped, or that sleeps and uses no CPU at all though something lies in its socket, hangs. One that
computes, waits for a CPU or for a disk gets ten times as long; by then it is of no use to anybody. And if we were late
ourselves (the machine slept, or is overloaded) the clock begins again: the answer may lie unread before us.
"""

from __future__ import annotations

from typing import NamedTuple

# How often a sign of life is asked for, and how often one who owes it is looked at.
PING_S = 1.0
LOOK_S = 0.25
# A timer of ours that is later than this says that we did not run.
LATE_S = 0.5
# How many times longer one may take that computes, or waits for a CPU or a disk.
PATIENCE = 10

STOPPED, BUSY = "Tt", "RD"


class Look(NamedTuple):
    """What the kernel says of a process: a letter for the state of each of its threads, and the CPU it has used."""

    states: str
    ticks: int


class Vigil:
    """The watch over one process. At ``due`` somebody should ask ``turn`` what to do."""

    def __init__(self, hung_s: float, now: float) -> None:
        self._hung_s = hung_s
        self.due: float = now
        # Since when an answer is owed, and since when nothing at all was seen of it; None: nothing is owed.
        self._asked: float | None = None
        self._still = now
        self._ticks = -1

    @property
    def owed(self) -> bool:
        """Whether it has been asked and has not answered."""
        return self._asked is not None

    def asked(self, now: float) -> None:
        """It was asked now."""
        self._asked = self._still = now
        self._ticks = -1
        self.due = now + LOOK_S

    def answered(self, now: float) -> None:
        """It lives, or there is nobody to ask: the next question has time."""
        self._asked = None
        self.due = now + PING_S

    def looked(self, now: float, look: Look) -> str:
        """At ``due``, while an answer is owed: why it is to be killed; empty while there is hope."""
        assert self._asked is not None, "nothing is owed"
        if now - self.due > LATE_S:
            self._asked = self._still = now
        self.due = now + LOOK_S
        silent = f"no sign of life for {now - self._asked:.1f} s"
        stopped = bool(look.states) and all(state in STOPPED for state in look.states)
        if not stopped and (look.ticks != self._ticks or any(state in BUSY for state in look.states)):
            self._still = now
        self._ticks = look.ticks
        if stopped and now - self._asked >= self._hung_s:
            return f"{silent}: it is stopped"
        if now - self._still >= self._hung_s:
            return f"{silent}: it sleeps"
        if now - self._asked >= PATIENCE * self._hung_s:
            return f"{silent}, though it runs"
        return ""
