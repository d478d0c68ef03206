"""What the leader of one topic-partition decides, for one leader epoch. Pure: no I/O, clock or randomness.

The mailbox is the batch: the shell hands over all that waits, carries out the effects in their order, and reports what
came of them (``written``, ``synced``), each of which may yield more effects. Offsets are ends: ``end`` 10 means that
records 0 to 9 are there.

The rules, and where they come from (design, section 6; Kafka's numbers are those of its protocol guide):

* appends only in the epoch granted to this start; anything else is NOT_LEADER_OR_FOLLOWER;
* the watermark is the lowest *durable* end in the ISR, never falls, and stands still while the ISR is smaller than
  ``min.insync.replicas`` (strict min ISR, KIP-966);
* acks=all is answered when the watermark has passed the batch, and so is a duplicate of a batch that is not yet
  committed; acks=1 when this replica's own copy is as durable as the topic asks;
* one notice a lane is armed for consumers at the tail, and carries whatever is newest when it fires;
* a writer that opens a session drops its older incarnations: their appends are refused from then on (decision 0004).
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Sequence

import msgspec

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

from ..messages import Advanced, Appended, Message, Refused, WriterOpened

# Who asked: the shell's business, for the machine only something to hand back.
Ticket = Hashable

ACKS_ALL, ACKS_NONE, ACKS_LEADER = -1, 0, 1


class Mail(msgspec.Struct, gc=False):
    """One batch that waits to be appended; ``batch`` is the shell's, the machine never looks at it."""

    ticket: Ticket
    epoch: int
    acks: int
    deadline_ms: int
    batch: object
    writer: str = ""
    incarnation: int = 0


class Written(msgspec.Struct, frozen=True, gc=False):
    """Where one batch of a ``Write`` went; for a duplicate, where its first copy is."""

    first_offset: int
    last_offset: int
    append_time_ms: int = -1


class Write(msgspec.Struct, frozen=True, gc=False):
    """Append these, in this order, with one write; then call ``written`` with one result for each."""

    batches: list[Mail]


class Sync(msgspec.Struct, frozen=True, gc=False):
    """Make all that is written durable, then call ``synced``; none other is asked for until then."""


class Commit(msgspec.Struct, frozen=True, gc=False):
    """The watermark is now here: record it."""

    high_watermark: int


class Answer(msgspec.Struct, frozen=True, gc=False):
    """Reply to this ticket."""

    ticket: Ticket
    message: Message


class Notify(msgspec.Struct, frozen=True, gc=False):
    """Reply to this ticket with ``state()`` as it is when the effect is carried out."""

    ticket: Ticket


Effect = Write | Sync | Commit | Answer | Notify


class _Waiter(msgspec.Struct, order=True, gc=False):
    """An append that is written but not yet as durable as asked; ordered by the end it waits for."""

    end: int
    number: int
    ticket: Ticket
    deadline_ms: int
    answer: Appended


def refusal(error: KafkaError, epoch: int = -1) -> Refused:
    """The message that carries a typed error over a lane."""
    return Refused(code=error.code, reason=str(error), leader_epoch=epoch)


class Machine:
    """The leader of one partition. ``durable``: an end counts once it is synced (flush=ack), else once it is written.

    ``min_isr`` is the effective one, already capped by ``replicas``, the replication factor.
    """

    def __init__(
        self,
        *,
        node: int,
        epoch: int,
        end: int,
        synced_end: int,
        high_watermark: int,
        log_start: int = 0,
        durable: bool = True,
        isr: Iterable[int] = (),
        min_isr: int = 1,
        replicas: int = 1,
    ) -> None:
        self.node = node
        self.epoch = epoch
        self.epoch_start = end
        self.log_start = log_start
        self.end = end
        self.synced_end = synced_end
        self.high_watermark = high_watermark
        self.durable = durable
        self.replicas = replicas
        self.min_isr = min_isr
        self.isr = frozenset(isr) or frozenset((node,))
        # What each follower has said to hold durably in this epoch; absent: it has not fetched yet (a new start of a
        # replica is a new incarnation, and what an earlier one had acknowledged says nothing about it).
        self.followers: dict[int, int] = {}
        self._syncing = False
        self._number = 0
        self._committing: list[_Waiter] = []
        self._persisting: list[_Waiter] = []
        self._watches: dict[Hashable, tuple[Ticket, int]] = {}
        # The newest incarnation of each writer that opened a session in this epoch.
        self._writers: dict[str, int] = {}

    # Appends --------------------------------------------------------------------------------------------------------

    def start(self) -> list[Effect]:
        """The first effects: what an earlier epoch left unsynced is synced, so that the watermark can reach it."""
        effects: list[Effect] = []
        if self.durable and self.synced_end < self.end:
            self._ask_sync(effects)
        self._advance(effects)
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
                effects.append(Answer(item.ticket, refusal(error, self.epoch)))
        if accepted:
            effects.append(Write(accepted))
        return effects

    def _objection(self, item: Mail) -> KafkaError | None:
        if item.epoch != self.epoch:
            return NotLeaderOrFollowerError(f"epoch {item.epoch} was asked, this leader has epoch {self.epoch}")
        if item.writer and self._writers.get(item.writer) != item.incarnation:
            return _fenced(item.writer, item.incarnation)
        if item.acks == ACKS_ALL:
            if len(self.isr) < self.min_isr:
                return NotEnoughReplicasError(f"{len(self.isr)} in-sync replicas, {self.min_isr} are needed")
        elif item.acks not in (ACKS_NONE, ACKS_LEADER):
            return InvalidRequiredAcksError(f"acks must be -1, 0 or 1, not {item.acks}")
        return None

    def written(self, batches: Sequence[Mail], results: Sequence[Written | KafkaError], end: int) -> list[Effect]:
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
                waiter = _Waiter(result.last_offset + 1, self._number, item.ticket, item.deadline_ms, answer)
                heapq.heappush(self._committing if item.acks == ACKS_ALL else self._persisting, waiter)
        self.end = max(self.end, end)
        if self.durable and self.synced_end < self.end:
            self._ask_sync(effects)
        self._settle(effects)
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

    def refused(self, batches: Sequence[Mail], error: KafkaError) -> list[Effect]:
        """A ``Write`` of which nothing was kept: all of it gets this error."""
        return [Answer(item.ticket, refusal(error, self.epoch)) for item in batches]

    def synced(self, end: int) -> list[Effect]:
        """A ``Sync`` is done: everything below ``end`` would survive a power cut."""
        self._syncing = False
        effects: list[Effect] = []
        self.synced_end = max(self.synced_end, end)
        if self.durable and self.synced_end < self.end:
            self._ask_sync(effects)
        self._settle(effects)
        return effects

    @property
    def waiting(self) -> bool:
        """Whether an append waits for its answer, so that ``expire`` must be called in time."""
        return bool(self._committing or self._persisting)

    def expire(self, now_ms: int) -> list[Effect]:
        """Appends whose client has given up waiting; their records stay (kafka.md 6.2, rule 8)."""
        effects: list[Effect] = []
        for waiters in (self._committing, self._persisting):
            late = [waiter for waiter in waiters if waiter.deadline_ms <= now_ms]
            if late:
                waiters[:] = [waiter for waiter in waiters if waiter.deadline_ms > now_ms]
                heapq.heapify(waiters)
                error = RequestTimedOutError(
                    f"written, but not acknowledged by the in-sync replicas {sorted(self.isr)} in time"
                )
                effects.extend(Answer(waiter.ticket, refusal(error, self.epoch)) for waiter in late)
        return effects

    # Replicas -------------------------------------------------------------------------------------------------------

    def follower_at(self, node: int, end: int) -> list[Effect]:
        """A follower of this epoch holds everything below ``end`` durably."""
        self.followers[node] = end
        effects: list[Effect] = []
        self._settle(effects)
        return effects

    def set_isr(self, isr: Iterable[int], min_isr: int) -> list[Effect]:
        """The committed ISR, or the topic's ``min.insync.replicas``, has changed."""
        self.isr = frozenset(isr)
        self.min_isr = min_isr
        effects: list[Effect] = []
        self._settle(effects)
        return effects

    def set_durable(self, durable: bool) -> list[Effect]:
        """The topic's ``logeion.flush`` has changed."""
        self.durable = durable
        effects: list[Effect] = []
        if durable and self.synced_end < self.end:
            self._ask_sync(effects)
        self._settle(effects)
        return effects

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

    def forget(self, lane: Hashable) -> None:
        """This lane is closed."""
        self._watches.pop(lane, None)

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
        """Whether a gateway speaks of this leader."""
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

    def _advance(self, effects: list[Effect]) -> None:
        """Move the watermark to the lowest durable end of the ISR, and tell who waited for that."""
        if len(self.isr) < self.min_isr:
            return
        lowest = self._own_end()
        for node in self.isr:
            if node != self.node:
                lowest = min(lowest, self.followers.get(node, -1))
        if lowest <= self.high_watermark:
            return
        self.high_watermark = lowest
        effects.append(Commit(lowest))
        for lane, (ticket, offset) in list(self._watches.items()):
            if offset < lowest:
                del self._watches[lane]
                effects.append(Notify(ticket))

    def _settle(self, effects: list[Effect]) -> None:
        self._advance(effects)
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


def _fenced(writer: str, incarnation: int) -> KafkaError:
    return InvalidProducerEpochError(f"incarnation {incarnation} of writer {writer} has no session here (any more)")


def check_client_epoch(asked: int, epoch: int) -> KafkaError | None:
    """Kafka's check of ``current_leader_epoch`` (KIP-320): -1 does not ask, lower is fenced, higher is unknown here."""
    if asked in (-1, epoch):
        return None
    if asked < epoch:
        return FencedLeaderEpochError(f"leader epoch {asked} is over, the current one is {epoch}")
    return UnknownLeaderEpochError(f"leader epoch {asked} is not known here yet, the current one is {epoch}")
