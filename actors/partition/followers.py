"""How far each follower is, and whether it keeps up: what a leader remembers of one in its epoch. Pure.

A follower is *current* while it holds durably all that the leader has, on an open lane: parked at the end, it is caught
up by definition. Else its clock runs from the last moment at which it is known to have had all that the leader had at
that moment. Under a steady load it is never current; so a *mark* is set at the leader's end, and when the follower has
reached it, it was caught up at the time the mark was set, and the next one is set.
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from ..messages import FetchLog

NEVER = float("-inf")


class Follower(msgspec.Struct, gc=False):
    """One follower in one leader epoch.

    ``offset`` is the end of its log at its last fetch on ``lane`` that agreed with ours, -1 before; ``end`` what it
    holds durably, -1 if unknown; ``acknowledged`` the most that its directory has ever held durably in this epoch.
    ``lost``: it came back with less than that, so it gets nothing until it has left the ISR. ``partition_epoch`` is the
    newest it has heard of, ``left_at`` the one at which it left the ISR or was first seen out of it: a process that
    died because its log was lost, and whose words are still on their way, has never heard of that one.
    """

    node: int
    caught_up_at: float = NEVER
    broker_epoch: int = -1
    incarnation: int = -1
    directory_id: str = ""
    lane: Hashable = None
    offset: int = -1
    end: int = -1
    acknowledged: int = -1
    lost: bool = False
    partition_epoch: int = -1
    left_at: int = -1
    member: bool = False
    parked: FetchLog | None = None
    parked_until: float = 0.0
    # What it has been told.
    high_watermark: int = -1
    log_start: int = -1
    mark_end: int = -1
    mark_at: float = NEVER

    def older(self, fetch: FetchLog) -> bool:
        """Whether this fetch comes from an earlier start of the replica than the one that is known."""
        return (fetch.broker_epoch, fetch.incarnation) < (self.broker_epoch, self.incarnation)

    def begin(self, lane: Hashable, fetch: FetchLog, leader_end: int, now: float) -> None:
        """It has dialled (again): what it holds is what its fetches say from now on."""
        if fetch.incarnation != self.incarnation or fetch.broker_epoch != self.broker_epoch:
            self.end = self.partition_epoch = -1
        self.lane = lane
        self.broker_epoch, self.incarnation = fetch.broker_epoch, fetch.incarnation
        self.offset = -1
        self.parked = None
        self.mark_end, self.mark_at = leader_end, now

    def heard(self, partition_epoch: int) -> bool:
        """It has heard of this partition epoch; whether that is news."""
        if partition_epoch <= self.partition_epoch:
            return False
        self.partition_epoch = partition_epoch
        return True

    def seen(self, member: bool, partition_epoch: int) -> None:
        """Whether it is in the ISR as of this partition epoch."""
        if self.member and not member:
            self.left_at = partition_epoch
        self.member = member

    def current(self, leader_end: int) -> bool:
        """Whether it holds all there is, on an open lane."""
        return self.lane is not None and self.end >= leader_end

    def lag_s(self, leader_end: int, now: float) -> float:
        """For how long it has not been caught up; 0 while it is."""
        return 0.0 if self.current(leader_end) else now - self.caught_up_at

    def progress(self, end: int, leader_end: int, now: float) -> None:
        """It holds everything below ``end`` durably."""
        self.end = end
        self.acknowledged = max(self.acknowledged, end)
        if end >= leader_end:
            self.caught_up_at = now
        elif end >= self.mark_end:
            self.caught_up_at = max(self.caught_up_at, self.mark_at)
        else:
            return
        self.mark_end, self.mark_at = leader_end, now

    def grown(self, old_end: int, new_end: int, now: float) -> None:
        """The leader's log has grown: the clock of a current follower begins to run."""
        if self.current(old_end):
            self.caught_up_at = now
            self.mark_end, self.mark_at = new_end, now

    def closed(self, leader_end: int, now: float) -> None:
        """Its lane is gone; what it holds it still holds."""
        if self.current(leader_end):
            self.caught_up_at = now
        self.lane = None
        self.parked = None
