"""The half of a leader's machine that deals with its followers: their fetches, their progress, the ISR. Pure.

* A fetch at offset X with last epoch E means "I have everything below X of this history" only if our history has epoch
  E up to X at least; else it is told where the two part, and nothing else (KIP-101, KIP-279, KIP-320).
* What is written may be sent at once, also while we sync it: this epoch belongs to this start alone.
* What counts is what a follower holds durably. A new start of it is a new incarnation whose end is not known before its
  first fetch; one that comes back with less than its directory had acknowledged in this epoch has lost its storage,
  and gets nothing until the controller has taken it out of the ISR.
* Into the ISR comes who holds what is committed and where this epoch begins, keeps up, and may be there (registered
  with the broker epoch its fetches carry, not fenced, not shutting down); out goes who lags for too long or may not be
  there. Both go through the controller; see ``isr``.
"""

from __future__ import annotations

import abc
from collections.abc import Hashable

from logeion.log.epochs import EpochCache
from logeion.wire.errors import (
    FencedLeaderEpochError,
    NotLeaderOrFollowerError,
    OffsetOutOfRangeError,
    ReplicaNotAvailableError,
    StaleBrokerEpochError,
    UnknownLeaderEpochError,
)

from ..messages import (
    AlterPartition,
    FetchLog,
    FollowerState,
    LogFetched,
    PartitionAltered,
    Persisted,
    Slice,
    Watermark,
)
from .effects import Drop, Effect, ProposeIsr, SendLog, Tell
from .followers import NEVER, Follower
from .isr import Isr

# How often clients' timeouts and followers' lags are looked at while there are any.
CHECK_S = 0.1
# Whoever comes so late to what was due has slept, and cannot hold it against others.
SLEPT_S = 0.5
# How soon a parked follower hears of a watermark that moved without a reason to answer its fetch.
WATERMARK_S = 0.05


class Replication(abc.ABC):
    """What ``Machine`` inherits; it brings the log's ends and the watermark, and does what follows from a change."""

    epoch: int
    epoch_start: int
    log_start: int
    end: int
    high_watermark: int

    def __init__(
        self, node: int, epochs: EpochCache, slice: Slice, min_insync: int, lag_time_max_s: float, now: float
    ) -> None:
        assert (slice.leader, slice.leader_epoch) == (node, self.epoch), "a leader starts with its own slice"
        self.node = node
        self.epochs = epochs
        self.slice: Slice = slice
        self.lag_time_max_s = lag_time_max_s
        # Another leader epoch has begun.
        self.resigned: bool = False
        self.followers: dict[int, Follower] = {}
        self._isr = Isr(frozenset(slice.isr), slice.partition_epoch)
        self._proposed_epochs: dict[int, int] = {}
        self._min_insync = min_insync
        # How many must be in sync for acks=all, and for the watermark to move.
        self.min_isr: int = 1
        self._wake: float | None = None
        self._watermark_at: float | None = None
        self._assign(now)

    # What is known --------------------------------------------------------------------------------------------------

    @property
    def isr(self) -> frozenset[int]:
        """The committed in-sync replicas."""
        return self._isr.committed

    @property
    def maximal_isr(self) -> frozenset[int]:
        """Those, and the ones whose joining may have been committed already."""
        return self._isr.maximal

    @property
    def partition_epoch(self) -> int:
        """The version of the ISR and the assignment (KIP-497)."""
        return self._isr.partition_epoch

    def described(self, now: float) -> list[FollowerState]:
        """How far each follower is."""
        return [
            FollowerState(
                node=node,
                end=one.end,
                lag_ms=-1 if one.caught_up_at == NEVER else int(one.lag_s(self.end, now) * 1000),
                connected=one.lane is not None,
            )
            for node, one in sorted(self.followers.items())
        ]

    @property
    def deadline(self) -> float | None:
        """When ``tick`` is to be called, at the latest; None: nothing is awaited."""
        return self._wake

    def _wake_by(self, at: float) -> None:
        if self._wake is None or at < self._wake:
            self._wake = at

    # Fetches --------------------------------------------------------------------------------------------------------

    def fetched(self, lane: Hashable, fetch: FetchLog, now: float) -> list[Effect]:
        """A follower asks for more, and says thereby what it has."""
        code = self._fetch_objection(fetch)
        if code:
            return [Tell(lane, self._nothing(code=code))]
        follower = self.followers[fetch.node]
        effects: list[Effect] = []
        if follower.lane != lane:
            if follower.older(fetch):
                return [Drop(lane, "a later start of this replica has fetched already")]
            if follower.lane is not None:
                effects.append(Drop(follower.lane, "this replica fetches on another lane now"))
            follower.begin(lane, fetch, self.end, now)
        follower.parked = None
        follower.heard(fetch.partition_epoch)
        other_directory = follower.directory_id not in ("", fetch.directory_id)
        if follower.lost or other_directory or fetch.offset < follower.acknowledged:
            if fetch.node in self._isr.maximal:
                follower.lost = True
                follower.end = -1
                self._park(follower, fetch, now)
                self._review(effects, now)
                return effects
            follower.acknowledged = follower.end = -1
        follower.directory_id = fetch.directory_id
        self._take_fetch(effects, follower, fetch, now)
        return effects

    def _take_fetch(self, effects: list[Effect], follower: Follower, fetch: FetchLog, now: float) -> None:
        """A fetch of a follower that has lost nothing."""
        lane = follower.lane
        if fetch.offset < self.log_start:
            effects.append(Tell(lane, self._nothing(code=OffsetOutOfRangeError.code)))
            return
        if fetch.last_epoch >= 0:
            epoch, end = self._epoch_end(fetch.last_epoch)
            if epoch < fetch.last_epoch or end < fetch.offset:
                follower.offset = -1
                effects.append(Tell(lane, self._nothing(diverging_epoch=epoch, diverging_end=end)))
                return
        if fetch.offset > self.end:
            effects.append(Tell(lane, self._nothing(code=OffsetOutOfRangeError.code)))
            return
        follower.offset = fetch.offset
        follower.high_watermark, follower.log_start = fetch.high_watermark, fetch.log_start
        self._progressed(effects, follower, min(fetch.durable_end, fetch.offset), now)
        if fetch.offset < self.end:
            self._send(effects, follower, fetch)
        else:
            self._park(follower, fetch, now)
            if follower.high_watermark < self.high_watermark or follower.log_start < self.log_start:
                self._watermark_moved(now)

    def _fetch_objection(self, fetch: FetchLog) -> int:
        if self.resigned:
            return NotLeaderOrFollowerError.code
        if fetch.epoch != self.epoch:
            return FencedLeaderEpochError.code if fetch.epoch < self.epoch else UnknownLeaderEpochError.code
        if fetch.node not in self.followers:
            return ReplicaNotAvailableError.code
        peer = self.slice.peers.get(fetch.node)
        if peer is not None and fetch.broker_epoch < peer.broker_epoch:
            return StaleBrokerEpochError.code
        return 0

    def _epoch_end(self, asked: int) -> tuple[int, int]:
        """The largest epoch not above the one asked, and where it ends in our log."""
        epoch, end = self.epochs.end_of(asked, self.end)
        # An epoch above all of ours was never ours: all we have is of the ones below it.
        return (epoch, end) if epoch >= 0 else (max(self.epochs.latest, 0), self.end)

    def _nothing(self, *, code: int = 0, diverging_epoch: int = -1, diverging_end: int = -1) -> LogFetched:
        return LogFetched(
            epoch=self.epoch,
            log_start=self.log_start,
            high_watermark=self.high_watermark,
            end=self.end,
            diverging_epoch=diverging_epoch,
            diverging_end=diverging_end,
            code=code,
        )

    def _send(self, effects: list[Effect], follower: Follower, fetch: FetchLog) -> None:
        follower.parked = None
        follower.high_watermark, follower.log_start = self.high_watermark, self.log_start
        effects.append(SendLog(follower.lane, fetch.offset, fetch.max_bytes, self._nothing()))

    def _park(self, follower: Follower, fetch: FetchLog, now: float) -> None:
        follower.parked = fetch
        follower.parked_until = now + fetch.wait_ms / 1000
        self._wake_by(follower.parked_until)

    # Progress -------------------------------------------------------------------------------------------------------

    def persisted(self, lane: Hashable, message: Persisted, now: float) -> list[Effect]:
        """A follower has made durable what it was sent. It counts up to the end of its last fetch that agreed with us:
        what lies above may be of another history."""
        effects: list[Effect] = []
        for follower in self.followers.values():
            if follower.lane == lane:
                if message.epoch == self.epoch and message.incarnation == follower.incarnation and not follower.lost:
                    news = follower.heard(message.partition_epoch)
                    end = min(message.durable_end, follower.offset)
                    if end > follower.end:
                        self._progressed(effects, follower, end, now)
                    elif news:
                        self._review(effects, now)
                break
        return effects

    def _progressed(self, effects: list[Effect], follower: Follower, end: int, now: float) -> None:
        follower.progress(end, self.end, now)
        if follower.node not in self._isr.maximal:
            self._review(effects, now)
        self._settle(effects, now)

    def _grown(self, effects: list[Effect], before: int, now: float) -> None:
        """The log has grown: whoever is parked is answered."""
        for follower in self.followers.values():
            follower.grown(before, self.end, now)
            if follower.parked is not None and not follower.lost:
                self._send(effects, follower, follower.parked)
        self._wake_by(now + CHECK_S)

    def _lowest_end(self, lowest: int, now: float) -> int:
        """The lowest durable end among the maximal ISR and those about to join it, from whom it must not run away."""
        maximal, followers = self._isr.maximal, self.followers
        for node in maximal:
            if node != self.node:
                follower = followers.get(node)
                lowest = min(lowest, -1 if follower is None else follower.end)
        for node, follower in followers.items():
            if node not in maximal and follower.end < lowest and self._keeps_up(follower, now):
                lowest = follower.end
        return lowest

    def _lost_lane(self, lane: Hashable, now: float) -> None:
        for follower in self.followers.values():
            if follower.lane == lane:
                follower.closed(self.end, now)

    # The ISR --------------------------------------------------------------------------------------------------------

    def slice_changed(self, slice: Slice, now: float) -> list[Effect]:
        """Node tells what the metadata log says of this partition now."""
        effects: list[Effect] = []
        if self.resigned or slice.applied < self.slice.applied or slice.leader_epoch < self.epoch:
            return effects
        if slice.leader_epoch > self.epoch or slice.leader != self.node:
            self._resign(effects)
            return effects
        self.slice = slice
        self._isr.heard(slice, now)
        for node in [node for node in self.followers if node not in slice.replicas]:
            gone = self.followers.pop(node)
            if gone.lane is not None:
                effects.append(Drop(gone.lane, "not a replica of this partition any more"))
        self._assign(now)
        self._isr_changed(effects, now)
        return effects

    def altered(self, number: int, result: PartitionAltered | int, now: float) -> list[Effect]:
        """What became of proposal ``number``: committed, refused with a code, or (0) not answered."""
        effects: list[Effect] = []
        if self.resigned:
            return effects
        if isinstance(result, PartitionAltered) and result.leader_epoch > self.epoch:
            # The change has cost us the leadership; the slice that says so is on its way.
            self._resign(effects)
            return effects
        self._isr.answered(number, result, now)
        self._count_min()
        self._isr_changed(effects, now)
        return effects

    def set_min_insync(self, min_insync: int, now: float) -> list[Effect]:
        """The topic's ``min.insync.replicas`` has changed."""
        self._min_insync = min_insync
        self._count_min()
        effects: list[Effect] = []
        self._settle(effects, now)
        return effects

    def trimmed(self, log_start: int, now: float) -> None:
        """The log begins later now."""
        self.log_start = log_start
        if self.followers:
            self._watermark_moved(now)

    def _count_min(self) -> None:
        self.min_isr = min(max(self._min_insync, self._isr.min_insync), len(self.slice.replicas))

    def _assign(self, now: float) -> None:
        slice = self.slice
        self._count_min()
        for node in slice.replicas:
            if node != self.node and node not in self.followers:
                member = node in self._isr.committed
                self.followers[node] = Follower(
                    node, now if member else NEVER, member=member, left_at=-1 if member else self.partition_epoch
                )

    def _isr_changed(self, effects: list[Effect], now: float) -> None:
        for follower in self.followers.values():
            follower.seen(follower.node in self._isr.committed, self._isr.partition_epoch)
            if follower.lost and follower.node not in self._isr.maximal:
                # Out: what it has left is as good a beginning as any.
                follower.lost = False
                follower.acknowledged = follower.end = -1
                follower.caught_up_at = NEVER
                if follower.parked is not None:
                    fetch, follower.parked = follower.parked, None
                    follower.directory_id = fetch.directory_id
                    self._take_fetch(effects, follower, fetch, now)
        self._review(effects, now)
        self._settle(effects, now)
        self._look_again(now)

    def _review(self, effects: list[Effect], now: float) -> None:
        """Propose the ISR as it should be, if it is another one and nothing is pending."""
        isr = self._isr
        if isr.must_repeat(now):
            assert isr.proposed is not None
            self._propose(effects, isr.proposed, self._proposed_epochs)
        elif isr.may_propose(now):
            wanted = {self.node}
            for node, follower in self.followers.items():
                if node in isr.committed:
                    if not self._must_leave(follower, now):
                        wanted.add(node)
                elif follower.end >= max(self.high_watermark, self.epoch_start) and self._keeps_up(follower, now):
                    wanted.add(node)
            if wanted != isr.committed or self._must_tell():
                self._propose(effects, frozenset(wanted), {node: self._broker_epoch(node) for node in wanted})
        if isr.next_at is not None and isr.next_at > now:
            self._wake_by(isr.next_at)

    def _must_tell(self) -> bool:
        """Whether we were elected uncleanly, and the controller does not know yet that we have recovered (KIP-704)."""
        return self.slice.recovering and self.slice.partition_epoch >= self._isr.partition_epoch

    def _propose(self, effects: list[Effect], wanted: frozenset[int], epochs: dict[int, int]) -> None:
        """Propose these members in the broker epochs in which they had earned it: one that has registered anew since
        may have lost what it had, so a repetition must not vouch for it."""
        self._proposed_epochs = epochs
        number = self._isr.propose(wanted)
        members = sorted(wanted)
        message = AlterPartition(
            topic_id=self.slice.topic_id,
            partition=self.slice.partition,
            leader_epoch=self.epoch,
            partition_epoch=self._isr.partition_epoch,
            isr=members,
            isr_epochs=[epochs[node] for node in members],
        )
        effects.append(ProposeIsr(number, message))

    def _broker_epoch(self, node: int) -> int:
        """The one that its fetches carried, -1 before the first."""
        if node == self.node:
            return self.slice.broker_epoch
        follower = self.followers.get(node)
        return -1 if follower is None else follower.broker_epoch

    def _must_leave(self, follower: Follower, now: float) -> bool:
        peer = self.slice.peers.get(follower.node)
        if peer is None or not peer.eligible or follower.lost:
            return True
        if 0 <= follower.broker_epoch < peer.broker_epoch:
            # Its host has registered anew: whatever it held was said by processes that are gone.
            return True
        return follower.lag_s(self.end, now) > self.lag_time_max_s

    def _keeps_up(self, follower: Follower, now: float) -> bool:
        """Whether one that is out of the ISR may join it and is close enough to do so."""
        peer = self.slice.peers.get(follower.node)
        if follower.lane is None or follower.lost or peer is None or not peer.eligible:
            return False
        # It has heard all that we have heard: so it is none whose loss is what we have heard of.
        if follower.partition_epoch < max(follower.left_at, self._isr.partition_epoch):
            return False
        return peer.broker_epoch == follower.broker_epoch and follower.lag_s(self.end, now) <= self.lag_time_max_s

    def _resign(self, effects: list[Effect]) -> None:
        self.resigned = True
        self._wake = None
        for follower in self.followers.values():
            if follower.lane is not None:
                effects.append(Tell(follower.lane, self._nothing(code=NotLeaderOrFollowerError.code)))
                effects.append(Drop(follower.lane, f"the leader of epoch {self.epoch} has resigned"))
        self.followers.clear()
        self._refuse_all(effects)

    # Time -----------------------------------------------------------------------------------------------------------

    def _watermark_moved(self, now: float) -> None:
        """Parked followers will be told of the watermark (or the log's start), together with all that follows soon."""
        if self._watermark_at is None:
            self._watermark_at = now + WATERMARK_S
            self._wake_by(self._watermark_at)

    def _tend(self, effects: list[Effect], now: float) -> None:
        """Answer fetches that were parked long enough, tell of the watermark, and see when to come again."""
        news = self._watermark_at is not None and self._watermark_at <= now
        if news:
            self._watermark_at = None
        for follower in self.followers.values():
            if follower.parked is None:
                continue
            if follower.parked_until <= now:
                follower.parked = None
                # Whether the log of one that has lost some of it agrees with ours was not looked at: our watermark is
                # none of its business.
                code = ReplicaNotAvailableError.code if follower.lost else 0
                effects.append(Tell(follower.lane, self._nothing(code=code)))
            elif news and not follower.lost:
                self._tell_watermark(effects, follower)
        self._look_again(now)

    def _tell_watermark(self, effects: list[Effect], follower: Follower) -> None:
        if follower.high_watermark < self.high_watermark or follower.log_start < self.log_start:
            follower.high_watermark, follower.log_start = self.high_watermark, self.log_start
            message = Watermark(epoch=self.epoch, high_watermark=self.high_watermark, log_start=self.log_start)
            effects.append(Tell(follower.lane, message))

    def _slept(self, for_s: float, now: float) -> None:
        """We were stopped (or the host was): followers could not be heard for so long, but none can be ahead of now."""
        for follower in self.followers.values():
            follower.caught_up_at = min(now, follower.caught_up_at + for_s)
            follower.mark_at = min(now, follower.mark_at + for_s)

    def _look_again(self, now: float) -> None:
        """When to come again."""
        if self._watermark_at is not None:
            self._wake_by(self._watermark_at)
        for follower in self.followers.values():
            if follower.parked is not None:
                self._wake_by(follower.parked_until)
            if not follower.current(self.end) and (follower.node in self._isr.maximal or self._keeps_up(follower, now)):
                self._wake_by(now + CHECK_S)

    # What Machine does ----------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _settle(self, effects: list[Effect], now: float) -> None:
        """The watermark may move: do what follows from that."""

    @abc.abstractmethod
    def _refuse_all(self, effects: list[Effect]) -> None:
        """Refuse whatever waits."""
