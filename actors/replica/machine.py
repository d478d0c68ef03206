"""What a follower of one topic-partition decides, through all leader epochs it lives in (kafka.md 6.3). Pure: no I/O,
clock or randomness.

One fetch is outstanding: it says what this log has, and the leader answers with what follows, with where the two part,
or not before there is news. What was answered is appended as it came, the next fetch leaves at once, and the sync runs
beside it; ``Persisted`` tells when that is done. Rules:

* whatever another dial or another leader epoch has to say is ignored (KAFKA-7786, KAFKA-13207);
* on divergence the log is cut to where both logs agree for all we know, and nothing else of that answer counts, least
  of all its watermark (KAFKA-14704); it may take several rounds (KIP-279). Never is it cut to the watermark (KIP-101);
* an end that lies outside the leader's log means to begin anew where that begins (KAFKA-9491);
* the watermark is the leader's, capped by our end, and never falls but by a cut;
* with flush=ack nothing is fetched before all that was found at the start is synced: what the first fetch calls durable
  is compared with what the last start had acknowledged.
"""

from __future__ import annotations

import msgspec

from logeion.log.epochs import EpochCache
from logeion.wire.errors import OffsetOutOfRangeError

from ..messages import FetchLog, LogFetched, Peer, Persisted, Slice, Watermark

# Between two dials, and before a fetch is repeated that was refused: so much for the first second, in which a leader
# should come up on a host that is there, then doubled each time, up to the last.
REDIAL_S = 0.015
REDIAL_SOON_S = 1.0
REDIAL_MAX_S = 0.5
# How long beyond its parking an answer may take before the lane is given up.
ANSWER_S = 5.0
# How much a throttled follower may fetch at once: so many seconds' worth.
BURST_S = 0.5


class Dial(msgspec.Struct, frozen=True, gc=False):
    """Open a lane to the partition's leader on this node; then call ``connected`` or ``disconnected``."""

    dial: int
    node: int
    host: str
    port: int


class Hangup(msgspec.Struct, frozen=True, gc=False):
    """Close this dial's lane, or give the dial up; nothing more is reported of it."""

    dial: int


class Fetch(msgspec.Struct, frozen=True, gc=False):
    """Tell the leader; its answer goes to ``answered``."""

    dial: int
    message: FetchLog


class Append(msgspec.Struct, frozen=True, gc=False):
    """Append the payload of the answer that was just given; then call ``written`` or ``append_failed``."""

    dial: int


class Truncate(msgspec.Struct, frozen=True, gc=False):
    """Cut the log off at ``offset``, and the epochs that begin there; then call ``cut``."""

    offset: int
    below_watermark: bool


class Reset(msgspec.Struct, frozen=True, gc=False):
    """Empty the log and begin anew at ``offset``; then call ``cut``."""

    offset: int


class Sync(msgspec.Struct, frozen=True, gc=False):
    """Make all that is written durable, then call ``synced``; none other is asked for until then."""


class Commit(msgspec.Struct, frozen=True, gc=False):
    """The watermark is now here: record it."""

    high_watermark: int


class Trim(msgspec.Struct, frozen=True, gc=False):
    """The leader's log begins here: delete what lies before; then call ``trimmed``."""

    offset: int


class Report(msgspec.Struct, frozen=True, gc=False):
    """Tell the leader what is durable now."""

    dial: int
    message: Persisted


Effect = Dial | Hangup | Fetch | Append | Truncate | Reset | Sync | Commit | Trim | Report


class ReplicaMachine:
    """The follower. ``epochs`` is the log's own; ``end`` and the like are the log's at the start.

    ``durable``: an end counts once it is synced (flush=ack), else once it is written.
    """

    def __init__(
        self,
        *,
        node: int,
        incarnation: int,
        directory_id: str,
        slice: Slice,
        epochs: EpochCache,
        end: int,
        synced_end: int,
        high_watermark: int,
        log_start: int,
        durable: bool,
        wait_ms: int = 30_000,
        max_bytes: int = 4_194_304,
    ) -> None:
        self.node = node
        self.incarnation = incarnation
        self.directory_id = directory_id
        self.slice: Slice = slice
        self.epochs = epochs
        self.end: int = end
        self.synced_end: int = synced_end
        self.high_watermark: int = high_watermark
        self.log_start: int = log_start
        self.durable: bool = durable
        self.wait_ms = wait_ms
        self.max_bytes = max_bytes
        # The newest dial; what others bring is ignored.
        self.dial: int = 0
        self.connected_now: bool = False
        # The leader's watermark and log start as it last said in this dial.
        self._leader_watermark = self._leader_start = -1
        self._dialling = False
        self._fetching = self._syncing = False
        self._ready = not durable or synced_end >= end
        self._reported = -1
        # How long the pauses between dials are, and until when they do not grow; ``_well``: they begin anew.
        self._well = True
        self._backoff_s = REDIAL_S
        self._soon_until = 0.0
        self._redial_at: float | None = None
        self._fetch_at: float | None = None
        self._answer_by: float | None = None
        self._last_cut: tuple[int, int] = (-1, -1)
        # When what a throttled follower has fetched is within its rate.
        self._free_at = 0.0

    @property
    def durable_end(self) -> int:
        """The end this replica vouches for."""
        return self.synced_end if self.durable else self.end

    @property
    def deadline(self) -> float | None:
        """When ``tick`` is to be called, at the latest; None: nothing is awaited."""
        times = [at for at in (self._redial_at, self._fetch_at, self._answer_by) if at is not None]
        return min(times) if times else None

    # Whom to follow -------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """The first effects."""
        effects: list[Effect] = []
        if self.durable:
            self._ask_sync(effects)
        self._follow(effects, now)
        return effects

    def slice_changed(self, slice: Slice, now: float) -> list[Effect]:
        """Node tells what the metadata log says of this partition now."""
        old = self.slice
        if slice.leader_epoch < old.leader_epoch or slice.applied < old.applied:
            return []
        effects: list[Effect] = []
        before = self._leader()
        self.slice = slice
        moved = slice.leader_epoch != old.leader_epoch or self._address(self._leader()) != self._address(before)
        # Under the old broker epoch this replica cannot be in the ISR, and its parked fetch carries that.
        if moved or slice.broker_epoch != old.broker_epoch:
            self._hang_up(effects)
            self._well = True
            self._follow(effects, now)
            return effects
        if self._fetch_at is not None:
            # The throttle may be another one.
            self._fetch_at = now
        if self._fetching and slice.partition_epoch > old.partition_epoch and self.node not in slice.isr:
            # Who is out of the ISR may join again once it has heard of that.
            self._persisted(effects)
        return effects

    def connected(self, dial: int, now: float) -> list[Effect]:
        """The lane of this dial is open."""
        if dial != self.dial or not self._dialling:
            return [Hangup(dial)]
        effects: list[Effect] = []
        self._dialling = False
        self.connected_now = True
        self._fetch(effects, now)
        return effects

    def disconnected(self, dial: int, now: float, *, host_gone: bool = False) -> list[Effect]:
        """The lane of this dial is closed, or never opened; ``host_gone``: nobody at all listens there."""
        if dial == self.dial and (self._dialling or self.connected_now):
            self._again(now, soon=not host_gone)
        return []

    def tick(self, now: float) -> list[Effect]:
        """What is due; to be called at ``deadline``, and harmless at any other time."""
        effects: list[Effect] = []
        if self._answer_by is not None and self._answer_by <= now:
            self._give_up(effects, now)
        if self._redial_at is not None and self._redial_at <= now:
            self._follow(effects, now)
        if self._fetch_at is not None and self._fetch_at <= now:
            self._fetch(effects, now)
        return effects

    # What the leader says -------------------------------------------------------------------------------------------

    def answered(self, dial: int, answer: LogFetched, size: int, now: float) -> list[Effect]:
        """The answer to the outstanding fetch, with a payload of ``size`` bytes."""
        if dial != self.dial or not self._fetching:
            return []
        self._fetching = False
        self._answer_by = None
        effects: list[Effect] = []
        if answer.epoch != self.slice.leader_epoch:
            self._give_up(effects, now)
        elif answer.code == OffsetOutOfRangeError.code:
            self._out_of_range(effects, answer, now)
        elif answer.code:
            self._give_up(effects, now)
        elif answer.diverging_epoch >= 0:
            self._diverged(effects, answer)
        else:
            self._well = True
            self._last_cut = (-1, -1)
            self._leader_watermark, self._leader_start = answer.high_watermark, answer.log_start
            if size:
                self._spend(size, now)
                effects.append(Append(dial))
            else:
                self._take_watermark(effects)
                self._fetch(effects, now)
        return effects

    def watermark(self, dial: int, message: Watermark, now: float) -> list[Effect]:
        """The leader's watermark or log start has moved while our fetch is parked there: our log agrees with its."""
        effects: list[Effect] = []
        if dial == self.dial and message.epoch == self.slice.leader_epoch and self._fetching:
            self._leader_watermark, self._leader_start = message.high_watermark, message.log_start
            self._take_watermark(effects)
        return effects

    # What became of effects -----------------------------------------------------------------------------------------

    def written(self, end: int, now: float) -> list[Effect]:
        """The payload is appended, and the log ends here now."""
        effects: list[Effect] = []
        if end <= self.end:
            # Not one whole batch: to ask for the same again at once would go on for ever.
            self._give_up(effects, now)
            return effects
        self.end = end
        moved: list[Effect] = []
        self._take_watermark(moved)
        # The leader can send the next while we record what it said.
        self._fetch(effects, now)
        effects += moved
        if self.durable:
            self._ask_sync(effects)
        return effects

    def append_failed(self, now: float) -> list[Effect]:
        """The payload was damaged or the disk is full; nothing of it was kept."""
        effects: list[Effect] = []
        self._give_up(effects, now)
        return effects

    def cut(self, end: int, high_watermark: int, log_start: int, now: float) -> list[Effect]:
        """The log was cut, and this is what it is now."""
        self.end, self.high_watermark, self.log_start = end, high_watermark, log_start
        self.synced_end = min(self.synced_end, end)
        effects: list[Effect] = []
        if (end, self.epochs.latest) == self._last_cut:
            # There was nothing to cut, so the next answer would be the same.
            self._give_up(effects, now)
        else:
            self._last_cut = (end, self.epochs.latest)
            self._fetch(effects, now)
        if self.durable:
            self._ask_sync(effects)
        return effects

    def synced(self, end: int, now: float) -> list[Effect]:
        """A ``Sync`` is done: everything below ``end`` would survive a power cut."""
        self._syncing = False
        self.synced_end = min(max(self.synced_end, end), self.end)
        effects: list[Effect] = []
        self._report(effects)
        if self.durable:
            self._ask_sync(effects)
        if not self._ready and not self._syncing:
            self._ready = True
            self._fetch(effects, now)
        return effects

    def trimmed(self, log_start: int) -> None:
        """The log begins here now, by the leader's word or by our own retention."""
        self.log_start = log_start
        self.high_watermark = max(self.high_watermark, log_start)

    def set_durable(self, durable: bool, now: float) -> list[Effect]:
        """The topic's ``logeion.flush`` has changed."""
        self.durable = durable
        effects: list[Effect] = []
        if durable:
            self._ask_sync(effects)
        elif not self._ready:
            self._ready = True
            self._fetch(effects, now)
        self._report(effects)
        return effects

    # Inside ---------------------------------------------------------------------------------------------------------

    def _leader(self) -> Peer | None:
        return None if self.slice.leader == self.node else self.slice.peers.get(self.slice.leader)

    @staticmethod
    def _address(peer: Peer | None) -> tuple[str, int] | None:
        return None if peer is None else (peer.host, peer.port)

    def _follow(self, effects: list[Effect], now: float) -> None:
        self._redial_at = None
        peer = self._leader()
        if peer is None or not peer.port:
            return
        self.dial += 1
        self._dialling = True
        self._leader_watermark = self._leader_start = self._reported = -1
        effects.append(Dial(self.dial, self.slice.leader, peer.host, peer.port))

    def _hang_up(self, effects: list[Effect]) -> None:
        if self._dialling or self.connected_now:
            effects.append(Hangup(self.dial))
        self._dialling = self.connected_now = self._fetching = False
        self._redial_at = self._fetch_at = self._answer_by = None

    def _again(self, now: float, *, soon: bool = True) -> None:
        self._dialling = self.connected_now = self._fetching = False
        self._fetch_at = self._answer_by = None
        if self._well:
            # It was well until now.
            self._well = False
            self._soon_until, self._backoff_s = now + REDIAL_SOON_S, REDIAL_S
        elif not soon or now >= self._soon_until:
            self._backoff_s = min(self._backoff_s * 2, REDIAL_MAX_S)
        self._redial_at = now + self._backoff_s

    def _give_up(self, effects: list[Effect], now: float) -> None:
        """Something is wrong with this lane, or with what we know: begin anew, a little later each time."""
        self._hang_up(effects)
        self._again(now)

    def _fetch(self, effects: list[Effect], now: float) -> None:
        self._fetch_at = None
        if not self.connected_now or self._fetching or not self._ready:
            return
        if self._rate and self._free_at > now:
            self._fetch_at = self._free_at
            return
        self._fetching = True
        self._answer_by = now + self.wait_ms / 1000 + ANSWER_S
        self._reported = self.durable_end
        message = FetchLog(
            epoch=self.slice.leader_epoch,
            node=self.node,
            broker_epoch=self.slice.broker_epoch,
            incarnation=self.incarnation,
            directory_id=self.directory_id,
            offset=self.end,
            last_epoch=self.epochs.latest,
            durable_end=self.durable_end,
            log_start=self.log_start,
            high_watermark=self.high_watermark,
            max_bytes=self._max_bytes(),
            wait_ms=self.wait_ms,
            partition_epoch=self.slice.partition_epoch,
        )
        effects.append(Fetch(self.dial, message))

    def _diverged(self, effects: list[Effect], answer: LogFetched) -> None:
        """Cut to the end of the leader's epoch, or of our own largest that is not above it, whichever comes first."""
        epoch, end = self.epochs.end_of(answer.diverging_epoch, self.end)
        offset = min(answer.diverging_end, self.end, end if epoch >= 0 else self.end)
        if offset <= answer.log_start and answer.log_start > self.log_start:
            # Its epochs tell nothing of what it has deleted, and that may end within a batch of which we have others.
            effects.append(Reset(answer.log_start))
            return
        effects.append(Truncate(offset, offset < self.high_watermark))

    def _out_of_range(self, effects: list[Effect], answer: LogFetched, now: float) -> None:
        if self.end < answer.log_start or self.end > answer.end:
            effects.append(Reset(answer.log_start))
        else:
            self._give_up(effects, now)

    def _take_watermark(self, effects: list[Effect]) -> None:
        high_watermark = min(self._leader_watermark, self.end)
        if high_watermark > self.high_watermark:
            self.high_watermark = high_watermark
            effects.append(Commit(high_watermark))
        start = min(self._leader_start, self.high_watermark)
        if start > self.log_start:
            effects.append(Trim(start))

    def _ask_sync(self, effects: list[Effect]) -> None:
        if not self._syncing and self.synced_end < self.end:
            self._syncing = True
            effects.append(Sync())

    def _report(self, effects: list[Effect]) -> None:
        if self.connected_now and self.durable_end > self._reported >= 0:
            self._persisted(effects)

    def _persisted(self, effects: list[Effect]) -> None:
        self._reported = self.durable_end
        message = Persisted(
            epoch=self.slice.leader_epoch,
            incarnation=self.incarnation,
            durable_end=self.durable_end,
            partition_epoch=self.slice.partition_epoch,
        )
        effects.append(Report(self.dial, message))

    # The throttle ---------------------------------------------------------------------------------------------------

    @property
    def _rate(self) -> int:
        return 0 if self.node in self.slice.isr else self.slice.throttle

    def _spend(self, size: int, now: float) -> None:
        rate = self._rate
        if rate:
            self._free_at = max(self._free_at, now - BURST_S) + size / rate

    def _max_bytes(self) -> int:
        rate = self._rate
        return min(self.max_bytes, max(int(rate * BURST_S), 1)) if rate else self.max_bytes
