"""Which produced batches of one partition wait for a leader, and which may be sent twice. Pure: no I/O, no clock.

A gateway rides out a failover (design, section 4): while no leader of the partition can be reached, its batches are
held, each for at most ``hold_ms``, and sent in the order in which they came once a leader serves again. A batch that
may have reached a log is sent again only if it carries a producer id, because only then is a second copy recognised;
the others fail, and their client decides. acks=0 is never sent twice.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

Work = TypeVar("Work")


class Held(msgspec.Struct, Generic[Work], gc=False):
    """One batch on its way to the partition; ``idempotent``: the log would recognise a second copy."""

    work: Work
    idempotent: bool
    acks: int
    hold_ms: int
    # Whose it is, -1 if nobody's: batches of one producer never overtake each other.
    producer: int = -1
    number: int = 0
    # Handed to a lane since the last time the partition refused it.
    sent: bool = False
    # When holding it ends; 0 until it is held for the first time.
    until_ms: int = 0


class Holding(Generic[Work]):
    """The unanswered batches of one partition, in the order in which they came."""

    def __init__(self) -> None:
        self.up: bool = False
        self._number = 0
        # By number, so in order: handed to the lane and unanswered, or held.
        self._sent: dict[int, Held[Work]] = {}
        self._held: dict[int, Held[Work]] = {}

    @property
    def holding(self) -> bool:
        """Whether anything is held, so that ``expire`` must be called in time."""
        return bool(self._held)

    @property
    def empty(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._sent and not self._held

    @property
    def next_deadline(self) -> int:
        """The earliest time, in milliseconds, at which ``expire`` has something to say; 0 if nothing is held."""
        return min((held.until_ms for held in self._held.values()), default=0)

    def submit(self, held: Held[Work], now_ms: int) -> bool:
        """A new batch: True if it is to be sent now, else it is held."""
        self._number += 1
        held.number = self._number
        if self.up and not self._held:
            held.sent = True
            self._sent[held.number] = held
            return True
        self._hold(held, now_ms)
        return False

    def answered(self, held: Held[Work]) -> bool:
        """The leader has answered; False if this batch is no longer waited for."""
        return self._sent.pop(held.number, None) is not None

    def not_leader(self, held: Held[Work], now_ms: int) -> bool:
        """Another leads now, says the leader: True if it is held for that one.

        A leader that resigns refuses also what it has written and not yet answered, and may lead again: so only what
        its log would recognise is sent to the next one.

        Everything is held from now on, until ``serving``: the batches behind it will be refused as well.
        """
        self.up = False
        if self._sent.pop(held.number, None) is None:
            return True
        held.sent = False
        if held.acks == 0 or not held.idempotent:
            return False
        self._hold(held, now_ms)
        return True

    def lost(self, now_ms: int) -> list[Held[Work]]:
        """The leader is gone. Returns what must fail: sent, and a second copy would not be recognised."""
        self.up = False
        failed: list[Held[Work]] = []
        for held in self._sent.values():
            if held.idempotent and held.acks != 0:
                self._hold(held, now_ms)
            else:
                failed.append(held)
        self._sent.clear()
        return failed

    def moved(self, now_ms: int) -> list[Held[Work]]:
        """Another host leads: ``lost``, and only what its log would recognise goes there. Returns what must fail."""
        failed = self.lost(now_ms)
        failed += [held for held in self._held.values() if not held.idempotent]
        for held in failed:
            self._held.pop(held.number, None)
        return sorted(failed, key=lambda held: held.number)

    def serving(self) -> list[Held[Work]]:
        """A leader serves: everything that was held, to be sent in this order."""
        self.up = True
        again = [self._held[number] for number in sorted(self._held)]
        self._held.clear()
        for held in again:
            held.sent = True
            self._sent[held.number] = held
        return again

    def expire(self, now_ms: int) -> list[Held[Work]]:
        """What was held too long, in order, and what its producers have sent since.

        A log that knows nothing of a producer yet takes the first batch it sees of it for its first, wherever its
        sequence begins; the earlier one would then be refused for good.
        """
        late = [held for held in self._held.values() if held.until_ms <= now_ms]
        late.sort(key=lambda held: -held.number)
        producers = {held.producer: held.number for held in late if held.producer >= 0}
        late += [
            held
            for held in self._held.values()
            if held.until_ms > now_ms and held.number > producers.get(held.producer, held.number)
        ]
        for held in late:
            del self._held[held.number]
        return sorted(late, key=lambda held: held.number)

    def withdraw(self, held: Held[Work]) -> None:
        """Forget this one; its sender has failed it."""
        self._sent.pop(held.number, None)
        self._held.pop(held.number, None)

    def give_up(self) -> list[Held[Work]]:
        """No leader will serve here: everything that is unanswered, in order."""
        self.up = False
        everything = sorted([*self._sent.values(), *self._held.values()], key=lambda held: held.number)
        self._sent.clear()
        self._held.clear()
        return everything

    def _hold(self, held: Held[Work], now_ms: int) -> None:
        if not held.until_ms:
            held.until_ms = now_ms + held.hold_ms
        self._held[held.number] = held
