"""What a producer holds and in which order it may go out. Pure: no sockets, no clock, time comes as an argument.

A record joins its partition's open batch; a batch is closed when it is full, or when it could leave and has lingered
or is flushed. Closed
batches leave in order, at most ``in_flight_max`` of a partition unanswered. The rules that keep order and lose nothing:

- A batch has its sequence from when it first leaves, and keeps it however often it is sent again.
- A partition's batches are in flight to one broker only: when its leader moves, the next waits for their answers.
- After a failure that may be tried again, the partition sends nothing until all its batches in flight are answered;
  then those that failed leave again one by one, in order of sequence.
- A batch that fails for good leaves a gap in its partition's sequences, and so does a broker that forgot this producer
  (the first unanswered batch is out of order, or its id unknown). No new sequence is given out there until everything
  that has one is settled; then the partition begins at 0 in the next epoch (KIP-360), in which whatever of the old one
  is still under way is refused. OUT_OF_ORDER_SEQUENCE_NUMBER meanwhile says of a batch behind the gap that it was not
  written: it gets a sequence in the new epoch. Brokers keep epochs by partition, so the others are not concerned.
- A broker that refuses the next epoch, or the last of them, makes a new producer id necessary.
- What is in flight past its deadline fails then; its place in the sequences is decided when it is answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from logeion.wire.errors import (
    DuplicateSequenceNumberError,
    InvalidProducerEpochError,
    LogeionError,
    OutOfOrderSequenceNumberError,
    ProducerFencedError,
    UnknownProducerIdError,
)

from .errors import BufferFullError, ClientError, DeadlineError, said
from .record_bytes import BATCH_OVERHEAD, Encoded, Entry, size_bound
from .retries import advise

SEQUENCE_LIMIT = 1 << 31
EPOCH_MAX = (1 << 15) - 1
Slot = tuple[str, int]
Done = Callable[["Batch"], object]


class Batch:
    """Records of one partition on their way. Once ``done``, either ``error`` is set or ``base_offset`` (-1: unknown,
    for acks=0 and for a duplicate whose offset the broker has forgotten)."""

    __slots__ = (
        "base_offset", "born", "callbacks", "done", "encoded", "entries", "error", "in_flight", "log_append_time_ms",
        "number", "partition", "retry_at", "sequence", "size", "topic", "tries", "trouble", "unsure",
    )  # fmt: skip

    def __init__(self, topic: str, partition: int, now: float, number: int) -> None:
        self.number: int = number
        self.topic: str = topic
        self.partition: int = partition
        self.born: float = now
        self.entries: list[Entry] = []
        self.size: int = BATCH_OVERHEAD
        self.encoded: Encoded | None = None
        self.sequence: int = -1
        self.in_flight: bool = False
        self.tries: int = 0
        self.retry_at: float = 0.0
        self.unsure: bool = False  # an attempt ended without an answer: it may have been written
        self.trouble: LogeionError | None = None  # what the last attempt came to
        self.done: bool = False
        self.error: LogeionError | None = None
        self.base_offset: int = -1
        self.log_append_time_ms: int = -1
        self.callbacks: list[Done] = []


class _Queue:
    """One partition's batches: open, closed and waiting, in flight, failed and waiting to leave again."""

    __slots__ = (
        "again", "flying", "gap", "identity", "next_sequence", "node", "numbered", "open", "producer_epoch",
        "producer_id", "spent", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.open: Batch | None = None
        self.waiting: deque[Batch] = deque()
        self.again: list[Batch] = []
        self.flying: list[Batch] = []
        self.node = -1  # where those in flight are
        self.identity = 0  # which of the producer's ids it uses, counted from 1
        self.spent = False  # that one is of no use here any more
        self.producer_id = -1
        self.producer_epoch = -1
        self.next_sequence = 0
        self.numbered = 0  # batches that have a sequence of this epoch and are not settled
        self.gap = False

    @property
    def empty(self) -> bool:
        return self.open is None and not self.waiting and not self.again and not self.flying

    def unsettled(self) -> list[Batch]:
        """Those whose fate is not known."""
        flying = [batch for batch in self.flying if not batch.done]
        return [*flying, *self.again, *self.waiting, *([self.open] if self.open is not None else [])]

    def remove(self, batch: Batch) -> None:
        """One that is not in flight."""
        if batch is self.open:
            self.open = None
        elif batch in self.again:
            self.again.remove(batch)
        else:
            self.waiting.remove(batch)


class Accumulator:
    """Bounded by ``buffer_bytes`` over all partitions; times in seconds of whatever clock the caller uses."""

    def __init__(
        self,
        *,
        batch_bytes: int,
        linger_s: float,
        buffer_bytes: int,
        delivery_timeout_s: float,
        codec: int,
        idempotent: bool,
        in_flight_max: int,
        request_bytes_max: int,
    ) -> None:
        self.batch_bytes = batch_bytes
        self.linger_s = linger_s
        self.buffer_bytes = buffer_bytes
        self.delivery_timeout_s = delivery_timeout_s
        self.codec = codec
        self.idempotent = idempotent
        self.in_flight_max: int = in_flight_max if idempotent else 1
        self.request_bytes_max = request_bytes_max
        self.used: int = 0
        self.records: int = 0
        self.producer_id: int = -1
        self.producer_epoch: int = -1
        self._identity = 0  # ids so far
        self._spent = False  # a partition needs another than the last
        self._queues: dict[Slot, _Queue] = {}
        self._made = 0  # batches so far

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        timestamp_ms: int,
        clock: Callable[[], float],
        movable: bool = False,
    ) -> tuple[Batch, int, bool]:
        """(its batch, its place in it, whether that closed a batch). Raises BufferFullError, having kept nothing.

        The ``clock`` is asked when a batch is born, not for every record, of which there are hundreds of thousands.
        A ``movable`` record that does not fit into the open batch closes it and is not taken (place -1): it may as
        well go to another partition.
        """
        if headers:
            size = size_bound(key, value, headers)
        else:
            size = 24 + (len(key) if key else 0) + (len(value) if value else 0)
        if self.used + size > self.buffer_bytes and self.used:
            raise BufferFullError(
                f"{self.used} bytes wait for their acknowledgement, {self.buffer_bytes} may (buffer_memory)",
                "wait for what was sent, or allow more",
            )
        queue = self._queues.get((topic, partition))
        if queue is None:
            queue = self._queues[topic, partition] = _Queue()
        closed = False
        batch = queue.open
        if batch is not None and batch.size + size > self.batch_bytes:
            queue.waiting.append(batch)
            queue.open = None
            if movable:
                return batch, -1, True
            batch = None
            closed = True
        if batch is None:
            self._made += 1
            batch = queue.open = Batch(topic, partition, clock(), self._made)
        batch.entries.append((timestamp_ms, key, value, headers))
        batch.size += size
        self.used += size
        self.records += 1
        return batch, len(batch.entries) - 1, closed

    def close_batches(self, now: float, *, flush: bool = False) -> list[Slot]:
        """Closes the open batches that have lingered, or all of them; returns where. One that could not leave yet
        stays open: the slower the broker, the larger the batches."""
        closed = []
        for slot, queue in self._queues.items():
            batch = queue.open
            if batch is None or self._blocked(queue):
                continue
            if flush or now - batch.born >= self.linger_s:
                queue.waiting.append(batch)
                queue.open = None
                closed.append(slot)
        return closed

    def _blocked(self, queue: _Queue) -> bool:
        """Whether something of this partition leaves or lands before its open batch."""
        return bool(queue.waiting or queue.again) or len(queue.flying) >= self.in_flight_max

    def ready(self, now: float) -> list[Slot]:
        """Partitions that may send a batch now."""
        return [slot for slot, queue in self._queues.items() if self._next(queue, now) is not None]

    def may_go_to(self, slot: Slot, node: int) -> bool:
        """Whether this broker may be sent the partition's next batch: none is in flight to another one. That one may
        still write them, or never answer; a batch that overtakes them would be out of order."""
        queue = self._queues[slot]
        return not queue.flying or queue.node == node

    def next_wake(self, now: float) -> float | None:
        """When something may become ready or expire without anything else happening; None: not by itself."""
        times = []
        for queue in self._queues.values():
            if queue.open is not None and not self._blocked(queue):
                times.append(queue.open.born + self.linger_s)
            if not queue.flying:
                times += [batch.retry_at for batch in queue.again[:1] if batch.retry_at > now]
            times += [batch.born + self.delivery_timeout_s for batch in queue.flying if not batch.done]
            oldest = queue.again[0] if queue.again else queue.waiting[0] if queue.waiting else queue.open
            if oldest is not None:
                times.append(oldest.born + self.delivery_timeout_s)
        return min(times) if times else None

    def _next(self, queue: _Queue, now: float) -> Batch | None:
        if queue.again:
            first = queue.again[0]
            if queue.flying or first.retry_at > now:
                return None
        elif queue.waiting and len(queue.flying) < self.in_flight_max:
            first = queue.waiting[0]
        else:
            return None
        return first if self._may_number(queue, first) else None

    def _may_number(self, queue: _Queue, batch: Batch) -> bool:
        if not self.idempotent or batch.sequence >= 0:
            return True
        if queue.numbered:
            return not queue.gap
        return self._identity > 0 and not (queue.spent and queue.identity == self._identity)

    def take(self, slot: Slot, now: float, node: int = -1) -> Batch | None:
        """The partition's next batch, now in flight to this broker, encoded and numbered; None if it may send none.

        What its encoding raises leaves everything as it was; see ``refuse``.
        """
        queue = self._queues[slot]
        batch = self._next(queue, now)
        if batch is None or not self.may_go_to(slot, node):
            return None
        if batch.encoded is None:
            batch.encoded = Encoded(batch.entries, self.codec)
        self._pop(queue)
        if self.idempotent and batch.sequence < 0:
            if not queue.numbered:
                self._begin_epoch(queue)
            batch.sequence = queue.next_sequence
            queue.next_sequence = (batch.sequence + len(batch.entries)) % SEQUENCE_LIMIT
            queue.numbered += 1
        queue.flying.append(batch)
        queue.node = node
        batch.in_flight = True
        batch.tries += 1
        return batch

    def refuse(self, slot: Slot, now: float, error: LogeionError) -> None:
        """Fails the batch that ``take`` could not encode."""
        queue = self._queues[slot]
        batch = self._next(queue, now)
        if batch is not None:
            self._pop(queue)
            self._fail(queue, batch, error)

    def bytes_of(self, batch: Batch) -> bytes:
        """The batch as it goes into a Produce."""
        assert batch.encoded is not None
        if not self.idempotent:
            return batch.encoded.batch(-1, -1, -1)
        queue = self._queues[batch.topic, batch.partition]
        return batch.encoded.batch(queue.producer_id, queue.producer_epoch, batch.sequence)

    def succeeded(self, batch: Batch, base_offset: int, log_append_time_ms: int = -1) -> None:
        """The broker has it."""
        queue = self._queues[batch.topic, batch.partition]
        self._landed(queue, batch)
        batch.base_offset = base_offset
        batch.log_append_time_ms = log_append_time_ms
        self._settle(queue, batch)

    def failed(self, batch: Batch, error: LogeionError, now: float, backoff_s: float) -> bool:
        """It was refused or got no answer; True if it will be sent again."""
        queue = self._queues[batch.topic, batch.partition]
        self._landed(queue, batch)
        if self.idempotent and isinstance(error, DuplicateSequenceNumberError):
            self._settle(queue, batch)
            return False
        if batch.done:  # it failed at its deadline, when nobody knew what would become of it
            self._fail(queue, batch, error)
            return False
        if now - batch.born >= self.delivery_timeout_s:
            self._fail(queue, batch, _late(batch, self.delivery_timeout_s, error))
            return False
        batch.trouble = error
        gap = queue.gap
        if self.idempotent and (goes_on := self._renumbered(queue, batch, error)) is not None:
            if goes_on:
                # Only what opened the gap waits: a broker that goes on refusing must not be asked all the time.
                batch.retry_at = now + backoff_s if queue.gap and not gap else now
                self._again(queue, batch)
            else:
                self._fail(queue, batch, error)
            return goes_on
        advice = advise(error)
        if advice.retry:
            batch.unsure = batch.unsure or advice.maybe_done
            batch.retry_at = now + backoff_s
            self._again(queue, batch)
            return True
        self._fail(queue, batch, error)
        return False

    def _renumbered(self, queue: _Queue, batch: Batch, error: LogeionError) -> bool | None:
        """What an error about sequences means: it goes on, with another sequence where that is needed (True), it fails
        (False); None for every other error."""
        if isinstance(error, OutOfOrderSequenceNumberError):
            if queue.gap:
                self._unnumber(queue, batch)
            elif not any(_before(other, batch) for other in (*queue.flying, *queue.again)):
                # Everything before it was acknowledged, so the broker has lost some of that. This one it has not.
                self._leave_gap(queue, refused=batch.sequence == 0)
                self._unnumber(queue, batch)
            return True
        if isinstance(error, UnknownProducerIdError):
            # With the producer the broker lost its records, to retention as a rule: there is nothing to be doubled.
            self._leave_gap(queue, refused=batch.sequence == 0)
            self._unnumber(queue, batch)
            return True
        if isinstance(error, InvalidProducerEpochError | ProducerFencedError):
            # Tansu says the second of an epoch that it has not given out itself.
            self._leave_gap(queue, refused=True)
            if batch.unsure:
                return False  # in another epoch the broker could not see that it has this already
            self._unnumber(queue, batch)
            return True
        return None

    def expire(self, now: float, why: Callable[[Slot], LogeionError | None] = lambda _: None) -> list[Batch]:
        """Fails what has waited longer than ``delivery_timeout_s``; returns it. What is in flight then keeps its place
        and its room until it is answered.

        ``why`` knows what has kept a partition's batches from being sent.
        """
        expired: list[tuple[_Queue, Batch]] = []
        for queue in self._queues.values():
            heads = [*queue.flying, *queue.again, queue.waiting[0] if queue.waiting else queue.open]
            if any(one is not None and now - one.born >= self.delivery_timeout_s for one in heads):
                expired += [(queue, one) for one in queue.unsettled() if now - one.born >= self.delivery_timeout_s]
        for queue, batch in expired:
            trouble = why((batch.topic, batch.partition)) or batch.trouble
            if batch.in_flight:
                batch.error = _late(batch, self.delivery_timeout_s, trouble or _UNANSWERED)
                self._tell(batch)
            else:
                queue.remove(batch)
                self._fail(queue, batch, _late(batch, self.delivery_timeout_s, trouble))
        return [batch for _, batch in expired]

    def fail_all(self, error: LogeionError) -> None:
        """Nothing will be sent any more; what is in flight waits for its answer."""
        left = [(queue, one) for queue in self._queues.values() for one in queue.unsettled() if not one.in_flight]
        for queue, batch in left:
            queue.remove(batch)
        for queue, batch in left:
            self._fail(queue, batch, error)

    def unsettled(self) -> list[Batch]:
        """Whose fate is not known."""
        return [batch for queue in self._queues.values() for batch in queue.unsettled()]

    @property
    def needs_producer_id(self) -> bool:
        """Whether a partition cannot send anything new without another id."""
        return self.idempotent and (self._identity == 0 or self._spent)

    def set_producer_id(self, producer_id: int, epoch: int) -> None:
        """A new id: each partition begins at sequence 0 with it, once what it has numbered is settled."""
        self.producer_id = producer_id
        self.producer_epoch = epoch
        self._identity += 1
        self._spent = False

    @property
    def empty(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return all(queue.empty for queue in self._queues.values())

    def _begin_epoch(self, queue: _Queue) -> None:
        """Nothing has a sequence: the time to change the id or the epoch, if that is wanted."""
        if queue.identity != self._identity:
            queue.identity = self._identity
            queue.producer_id, queue.producer_epoch = self.producer_id, self.producer_epoch
            queue.spent = False
        elif queue.gap:
            queue.producer_epoch += 1
        else:
            return
        queue.next_sequence = 0
        queue.gap = False

    def _leave_gap(self, queue: _Queue, *, refused: bool = False) -> None:
        queue.gap = True
        if refused or queue.producer_epoch >= EPOCH_MAX:
            queue.spent = True
            self._spent = self._spent or queue.identity == self._identity

    def _pop(self, queue: _Queue) -> None:
        if queue.again:
            queue.again.pop(0)
        else:
            queue.waiting.popleft()

    def _landed(self, queue: _Queue, batch: Batch) -> None:
        if batch.in_flight:
            batch.in_flight = False
            queue.flying.remove(batch)

    def _again(self, queue: _Queue, batch: Batch) -> None:
        """Back among those that leave first; unnumbered ones stand behind, in the order they were born."""
        queue.again.append(batch)
        queue.again.sort(key=lambda one: (one.sequence < 0, one.number))

    def _unnumber(self, queue: _Queue, batch: Batch) -> None:
        if batch.sequence >= 0:
            batch.sequence = -1
            queue.numbered -= 1

    def _fail(self, queue: _Queue, batch: Batch, error: LogeionError) -> None:
        if batch.sequence >= 0:
            self._leave_gap(queue)
        if not batch.done:
            batch.error = error
        self._settle(queue, batch)

    def _settle(self, queue: _Queue, batch: Batch) -> None:
        if batch.sequence >= 0:
            queue.numbered -= 1
        self.used -= batch.size - BATCH_OVERHEAD
        batch.encoded = None
        if not batch.done:
            self._tell(batch)

    def _tell(self, batch: Batch) -> None:
        batch.done = True
        self.records -= len(batch.entries)
        batch.entries = []
        callbacks, batch.callbacks = batch.callbacks, []
        for callback in callbacks:
            callback(batch)


_UNANSWERED = ClientError("its broker has not answered, so it may have been written", "look at the broker's load")


def _before(one: Batch, other: Batch) -> bool:
    """Whether its sequence comes earlier, across the wrap at 2^31."""
    return one.sequence >= 0 and 0 < (other.sequence - one.sequence) % SEQUENCE_LIMIT < SEQUENCE_LIMIT // 2


def _late(batch: Batch, limit_s: float, last: LogeionError | None) -> DeadlineError:
    why = f"; last: {said(last)}" if last is not None else ""
    hint = last.hint if isinstance(last, ClientError) and last.hint else "see whether the partition has a leader"
    return DeadlineError(
        f"{batch.topic}[{batch.partition}]: not delivered within {limit_s:g} s, {batch.tries} attempts{why}",
        f"{hint}; allow more time (delivery_timeout_ms)",
    )
