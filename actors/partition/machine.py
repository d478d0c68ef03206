"""What the leader of one topic-partition decides, for one leader epoch. Pure: no I/O, clock or randomness.

The mailbox is the batch: the shell hands over all that waits, carries out the effects in their order, and reports what
came of them (``written``, ``synced``, ``altered``), each of which may yield more effects. Offsets are ends: ``end`` 10
means that records 0 to 9 are there. ``now`` is in seconds of a monotonic clock.

The rules, and where they come from (design, section 6; Kafka's numbers are those of its protocol guide):

* appends only in the epoch granted to this start; anything else is NOT_LEADER_OR_FOLLOWER;
* the watermark is the lowest *durable* end in the maximal ISR, never falls, and stands still while the committed ISR is
  smaller than ``min.insync.replicas`` (strict min ISR, KIP-966);
* acks=all is answered when the watermark has passed the batch, and so is a duplicate of a batch that is not yet
  committed; acks=1 when this replica's own copy is as durable as the topic asks;
* one notice a lane is armed for consumers at the tail, and carries whatever is newest when it fires;
* a writer that opens a session drops its older incarnations: their appends are refused from then on (decision 0004);
* followers: see ``replication``.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence

import msgspec

from logeion.log.epochs import EpochCache
from logeion.wire.errors import (
    FencedLeaderEpochError,
    InvalidProducerEpochError,
    InvalidRequiredAcksError,
    KafkaError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    RequestTimedOutError,
    UnknownLeaderEpochError,
)

from ..messages import Advanced, Appended, Slice, WriterOpened
from .effects import Answer, Commit, Effect, Mail, Notify, Refuse, Resigned, Sync, Ticket, Write, Written, refusal
from .replication import CHECK_S, SLEPT_S, Replication

ACKS_ALL, ACKS_NONE, ACKS_LEADER = -1, 0, 1


class _Waiter(msgspec.Struct, order=True, gc=False):
    """An append that is written but not yet as durable as asked; ordered by the end it waits for."""

    end: int
    number: int
    ticket: Ticket
    deadline: float
    answer: Appended


class Machine(Replication):
    """The leader of one partition. ``durable``: an end counts once it is synced (flush=ack), else once it is written.

    ``epochs`` is the log's own, which has this epoch already; ``slice`` None is a partition with this one replica.
    """

    def __init__(
        self,
        *,
        node: int,
        epoch: int,
        epochs: EpochCache,
        end: int,
        synced_end: int,
        high_watermark: int,
        log_start: int = 0,
        durable: bool = True,
        slice: Slice | None = None,
        min_insync: int = 1,
        lag_time_max_s: float = 1.5,
        now: float = 0.0,
    ) -> None:
        if slice is None:
            slice = Slice(
                topic_id="",
                partition=0,
                leader=node,
                leader_epoch=epoch,
                partition_epoch=0,
                replicas=[node],
                isr=[node],
                broker_epoch=-1,
            )
        self.epoch = epoch
        self.epoch_start = end
        self.log_start = log_start
        self.end: int = end
        self.synced_end: int = synced_end
        self.high_watermark: int = high_watermark
        self.durable: bool = durable
        super().__init__(node, epochs, slice, min_insync, lag_time_max_s, now)
        self._syncing = False
        self._number = 0
        self._committing: list[_Waiter] = []
        self._persisting: list[_Waiter] = []
        self._watches: dict[Hashable, tuple[Ticket, int]] = {}
        # The newest incarnation of each writer that opened a session in this epoch.
        self._writers: dict[str, int] = {}

    # Appends --------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """The first effects: what an earlier epoch left unsynced is synced, so that the watermark can reach it."""
        effects: list[Effect] = []
        if self.durable and self.synced_end < self.end:
            self._ask_sync(effects)
        self._review(effects, now)
        self._settle(effects, now)
        self._look_again(now)
        return effects

    def take(self, mail: Sequence[Mail]) -> list[Effect]:
        """All that waits: refusals at once, the rest as one ``Write``."""
        effects: list[Effect] = []
        accepted: list[Mail] = []
        for item in mail:
            error = self._objection(item)
            if error is None:
                accepted.append(item)
            else:
                effects.append(Refuse(item, refusal(error, self.epoch)))
        if accepted:
            effects.append(Write(accepted))
        return effects

    def _objection(self, item: Mail) -> KafkaError | None:
        if item.epoch != self.epoch or self.resigned:
            return self.check_epoch(item.epoch)
        if item.writer and self._writers.get(item.writer) != item.incarnation:
            return _fenced(item.writer, item.incarnation)
        if item.acks == ACKS_ALL:
            if len(self.isr) < self.min_isr:
                return NotEnoughReplicasError(f"{len(self.isr)} in-sync replicas, {self.min_isr} are needed")
        elif item.acks not in (ACKS_NONE, ACKS_LEADER):
            return InvalidRequiredAcksError(f"acks must be -1, 0 or 1, not {item.acks}")
        return None

    def written(
        self, batches: Sequence[Mail], results: Sequence[Written | KafkaError], end: int, now: float
    ) -> list[Effect]:
        """What became of a ``Write``, and the log's end now."""
        effects: list[Effect] = []
        for item, result in zip(batches, results, strict=True):
            if isinstance(result, KafkaError):
                effects.append(Answer(item.ticket, refusal(result, self.epoch)))
                continue
            answer = Appended(
                base_offset=result.first_offset, log_start=self.log_start, append_time_ms=result.append_time_ms
            )
            if item.acks == ACKS_NONE:
                effects.append(Answer(item.ticket, answer))
            else:
                self._number += 1
                waiter = _Waiter(result.last_offset + 1, self._number, item.ticket, item.deadline, answer)
                heapq.heappush(self._committing if item.acks == ACKS_ALL else self._persisting, waiter)
        if end > self.end:
            before, self.end = self.end, end
            if self.followers:
                # Followers work while we sync: their answer may be here first.
                self._grown(effects, before, now)
            if self.durable:
                self._ask_sync(effects)
        self._settle(effects, now)
        if self.waiting:
            self._wake_by(now + CHECK_S)
        return effects

    def open_writer(self, ticket: Ticket, epoch: int, writer: str, incarnation: int) -> list[Effect]:
        """A writer begins: all that older incarnations of it can ever have written lies below the end it is told.

        The shell has taken all mail that came before this, so nothing of theirs can still be on its way past it.
        """
        error = self.check_epoch(epoch)
        if error is None and incarnation < self._writers.get(writer, incarnation):
            error = _fenced(writer, incarnation)
        if error is not None:
            return [Answer(ticket, refusal(error, self.epoch))]
        self._writers[writer] = incarnation
        return [Answer(ticket, WriterOpened(end=self.end))]

    def synced(self, end: int, now: float) -> list[Effect]:
        """A ``Sync`` is done: everything below ``end`` would survive a power cut."""
        self._syncing = False
        effects: list[Effect] = []
        self.synced_end = max(self.synced_end, end)
        if self.durable and self.synced_end < self.end:
            self._ask_sync(effects)
        self._settle(effects, now)
        return effects

    @property
    def waiting(self) -> bool:
        """Whether an append waits for its answer."""
        return bool(self._committing or self._persisting)

    def set_durable(self, durable: bool, now: float) -> list[Effect]:
        """The topic's ``logeion.flush`` has changed."""
        self.durable = durable
        effects: list[Effect] = []
        if durable and self.synced_end < self.end:
            self._ask_sync(effects)
        self._settle(effects, now)
        return effects

    # Time -----------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """What is due; to be called at ``deadline``, and harmless at any other time."""
        effects: list[Effect] = []
        if self.resigned:
            return effects
        if self._wake is not None and now - self._wake > SLEPT_S:
            self._slept(now - self._wake, now)
        self._wake = None
        self._expire(effects, now)
        if self.followers or self.slice.recovering:
            self._review(effects, now)
        if self.followers:
            self._settle(effects, now)
            self._tend(effects, now)
        if self.waiting:
            self._wake_by(now + CHECK_S)
        return effects

    def _expire(self, effects: list[Effect], now: float) -> None:
        """Appends whose client has given up waiting; their records stay (kafka.md 6.2, rule 8)."""
        for waiters in (self._committing, self._persisting):
            late = [waiter for waiter in waiters if waiter.deadline <= now]
            if late:
                waiters[:] = [waiter for waiter in waiters if waiter.deadline > now]
                heapq.heapify(waiters)
                error = RequestTimedOutError(
                    f"written, but not acknowledged by the in-sync replicas {sorted(self.isr)} in time"
                )
                effects.extend(Answer(waiter.ticket, refusal(error, self.epoch)) for waiter in late)

    # Readers --------------------------------------------------------------------------------------------------------

    def watch(self, lane: Hashable, ticket: Ticket, epoch: int, offset: int) -> list[Effect]:
        """Notify when the watermark is above ``offset``; a lane's earlier watch is answered with the state as it is.

        An ``offset`` of -1 asks for the state as it is, and replaces nothing.
        """
        error = self.check_epoch(epoch)
        if error is not None:
            return [Answer(ticket, refusal(error, self.epoch))]
        if offset < self.high_watermark:
            return [Notify(ticket)]
        earlier = self._watches.get(lane)
        self._watches[lane] = (ticket, offset)
        return [Notify(earlier[0])] if earlier is not None else []

    def lane_closed(self, lane: Hashable, now: float) -> list[Effect]:
        """This lane, a gateway's or a follower's, is closed."""
        self._watches.pop(lane, None)
        effects: list[Effect] = []
        if self.followers:
            self._lost_lane(lane, now)
            self._look_again(now)
        return effects

    def state(self, segment: int, position: int) -> Advanced:
        """What a gateway may know; the watermark lies at ``position`` of the segment named by ``segment``."""
        return Advanced(
            epoch=self.epoch,
            epoch_start=self.epoch_start,
            log_start=self.log_start,
            high_watermark=self.high_watermark,
            end=self.end,
            segment=segment,
            position=position,
        )

    def check_epoch(self, epoch: int) -> KafkaError | None:
        """Whether a gateway speaks of this leader, and it still leads."""
        if self.resigned:
            return NotLeaderOrFollowerError(f"this leader of epoch {self.epoch} has resigned")
        if epoch == self.epoch:
            return None
        return NotLeaderOrFollowerError(f"epoch {epoch} was asked, this leader has epoch {self.epoch}")

    def latest(self) -> int:
        """The offset that ListOffsets calls latest: the watermark.

        Raises OffsetNotAvailableError until the watermark has reached the start of this epoch (KIP-207): before, a
        client that has seen the old leader's watermark could be sent back.
        """
        if self.high_watermark < self.epoch_start:
            raise OffsetNotAvailableError(
                f"the new leader's watermark {self.high_watermark} has not reached its epoch's start {self.epoch_start}"
            )
        return self.high_watermark

    def trim_target(self, offset: int) -> int:
        """Where DeleteRecords may move the log's start: -1 is the watermark (KIP-107).

        Raises OffsetOutOfRangeError beyond the watermark.
        """
        if offset == -1:
            return self.high_watermark
        if not 0 <= offset <= self.high_watermark:
            raise OffsetOutOfRangeError(f"cannot delete up to {offset}: the high watermark is {self.high_watermark}")
        return max(offset, self.log_start)

    # Inside ---------------------------------------------------------------------------------------------------------

    def _ask_sync(self, effects: list[Effect]) -> None:
        if not self._syncing:
            self._syncing = True
            effects.append(Sync())

    def _own_end(self) -> int:
        return self.synced_end if self.durable else self.end

    def _advance(self, effects: list[Effect], now: float) -> None:
        """Move the watermark to the lowest durable end of the maximal ISR, and tell who waited for that."""
        if len(self.isr) < self.min_isr:
            return
        lowest = self._own_end()
        if lowest > self.high_watermark and self.followers:
            lowest = self._lowest_end(lowest, now)
        if lowest <= self.high_watermark:
            return
        self.high_watermark = lowest
        effects.append(Commit(lowest))
        if self.followers:
            self._watermark_moved(now)
        for lane, (ticket, offset) in list(self._watches.items()):
            if offset < lowest:
                del self._watches[lane]
                effects.append(Notify(ticket))

    def _settle(self, effects: list[Effect], now: float) -> None:
        if self.resigned:
            return
        self._advance(effects, now)
        own, committed = self._own_end(), self.high_watermark
        while self._persisting and self._persisting[0].end <= own:
            waiter = heapq.heappop(self._persisting)
            effects.append(Answer(waiter.ticket, waiter.answer))
        if not self._committing or self._committing[0].end > committed:
            return
        short = len(self.isr) < self.min_isr
        while self._committing and self._committing[0].end <= committed:
            waiter = heapq.heappop(self._committing)
            if short:
                error = NotEnoughReplicasAfterAppendError(f"only {len(self.isr)} in-sync replicas are left")
                effects.append(Answer(waiter.ticket, refusal(error, self.epoch)))
            else:
                effects.append(Answer(waiter.ticket, waiter.answer))

    def _refuse_all(self, effects: list[Effect]) -> None:
        error = self.check_epoch(self.epoch)
        assert error is not None
        answer = refusal(error, self.epoch)
        for waiters in (self._persisting, self._committing):
            effects.extend(Answer(waiter.ticket, answer) for waiter in sorted(waiters))
            waiters.clear()
        effects.extend(Answer(ticket, answer) for ticket, _offset in self._watches.values())
        self._watches.clear()
        effects.append(Resigned())


def _fenced(writer: str, incarnation: int) -> KafkaError:
    return InvalidProducerEpochError(f"incarnation {incarnation} of writer {writer} has no session here (any more)")


def check_client_epoch(asked: int, epoch: int) -> KafkaError | None:
    """Kafka's check of ``current_leader_epoch`` (KIP-320): -1 does not ask, lower is fenced, higher is unknown here."""
    if asked in (-1, epoch):
        return None
    if asked < epoch:
        return FencedLeaderEpochError(f"leader epoch {asked} is over, the current one is {epoch}")
    return UnknownLeaderEpochError(f"leader epoch {asked} is not known here yet, the current one is {epoch}")
