"""What a producer holds and in which order it may go out. Pure: no sockets, no clock, time comes as an argument.

A record joins its partition's open batch; a batch is closed when it is full, or when it could leave and has lingered
or is flushed. Closed
batches leave in order, at most ``in_flight_max`` of a partition unanswered. The rules that keep order and lose nothing:

- A batch has its sequence from when it first leaves, and keeps it however often it is sent again.
- After a failure that may be tried again, the partition sends nothing until all its batches in flight are answered;
  then those that failed leave again one by one, in order of sequence.
- A batch that fails for good leaves a gap in the sequences, so no new sequence is given out until everything that has
  one is settled, and then the producer needs a new id. OUT_OF_ORDER_SEQUENCE_NUMBER meanwhile says of a batch
  behind the gap that it was not written: it gets a sequence under the new id.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from logeion.wire.errors import DuplicateSequenceNumberError, LogeionError, OutOfOrderSequenceNumberError

from .errors import BufferFullError, ClientError, DeadlineError
from .record_bytes import BATCH_OVERHEAD, Encoded, Entry, size_bound
from .retries import advise

SEQUENCE_LIMIT = 1 << 31
Slot = tuple[str, int]
Done = Callable[["Batch"], object]


class Batch:
    """Records of one partition on their way. Once ``done``, either ``error`` is set or ``base_offset`` (-1: unknown,
    for acks=0 and for a duplicate whose offset the broker has forgotten)."""

    __slots__ = (
        "base_offset", "born", "callbacks", "done", "encoded", "entries", "error", "in_flight", "log_append_time_ms",
        "number", "partition", "retry_at", "sent", "sequence", "size", "topic", "tries",
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
        self.sent: bool = False
        self.in_flight: bool = False
        self.tries: int = 0
        self.retry_at: float = 0.0
        self.done: bool = False
        self.error: LogeionError | None = None
        self.base_offset: int = -1
        self.log_append_time_ms: int = -1
        self.callbacks: list[Done] = []


class _Queue:
    """One partition's batches: open, closed and waiting, in flight, failed and waiting to leave again."""

    __slots__ = ("again", "flying", "next_sequence", "open", "waiting")

    def __init__(self) -> None:
        self.open: Batch | None = None
        self.waiting: deque[Batch] = deque()
        self.again: list[Batch] = []
        self.flying = 0
        self.next_sequence = 0

    @property
    def empty(self) -> bool:
        return self.open is None and not self.waiting and not self.again and not self.flying


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
        self.gap: bool = False
        self._queues: dict[Slot, _Queue] = {}
        self._made = 0  # batches so far
        self._numbered = 0  # batches that have a sequence and are not settled

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        timestamp_ms: int,
        now: float,
    ) -> tuple[Batch, int, bool]:
        """(its batch, its place in it, whether that closed a batch). Raises BufferFullError, having kept nothing."""
        size = 24 + (len(key) if key else 0) + (len(value) if value else 0)
        if headers:
            size = size_bound(key, value, headers)
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
            batch = None
            closed = True
        if batch is None:
            self._made += 1
            batch = queue.open = Batch(topic, partition, now, self._made)
        batch.entries.append((timestamp_ms, key, value, headers))
        batch.size += size
        self.used += size
        self.records += 1
        return batch, len(batch.entries) - 1, closed

    def close_batches(self, now: float, *, flush: bool = False) -> None:
        """Closes the open batches that have lingered, or all of them. One that could not leave yet stays open: the
        slower the broker, the larger the batches."""
        for queue in self._queues.values():
            batch = queue.open
            if batch is None or self._blocked(queue):
                continue
            if flush or now - batch.born >= self.linger_s:
                queue.waiting.append(batch)
                queue.open = None

    def _blocked(self, queue: _Queue) -> bool:
        """Whether something of this partition leaves or lands before its open batch."""
        return bool(queue.waiting or queue.again) or queue.flying >= self.in_flight_max

    def ready(self, now: float) -> list[Slot]:
        """Partitions that may send a batch now."""
        return [slot for slot, queue in self._queues.items() if self._next(queue, now) is not None]

    def next_wake(self, now: float) -> float | None:
        """When something may become ready or expire without anything else happening; None: not by itself."""
        times = []
        for queue in self._queues.values():
            if queue.open is not None and not self._blocked(queue):
                times.append(queue.open.born + self.linger_s)
            if not queue.flying:
                times += [batch.retry_at for batch in queue.again[:1] if batch.retry_at > now]
            oldest = queue.again[0] if queue.again else queue.waiting[0] if queue.waiting else queue.open
            if oldest is not None:
                times.append(oldest.born + self.delivery_timeout_s)
        return min(times) if times else None

    def _next(self, queue: _Queue, now: float) -> Batch | None:
        if queue.again:
            first = queue.again[0]
            return first if not queue.flying and first.retry_at <= now and self._may_number(first) else None
        if queue.waiting and queue.flying < self.in_flight_max and self._may_number(queue.waiting[0]):
            return queue.waiting[0]
        return None

    def _may_number(self, batch: Batch) -> bool:
        return not self.idempotent or batch.sequence >= 0 or (self.producer_id >= 0 and not self.gap)

    def take(self, slot: Slot, now: float) -> Batch | None:
        """The partition's next batch, now in flight, encoded and numbered; None if it may send none."""
        queue = self._queues[slot]
        batch = self._next(queue, now)
        if batch is None:
            return None
        if queue.again:
            queue.again.pop(0)
        else:
            queue.waiting.popleft()
        if batch.encoded is None:
            batch.encoded = Encoded(batch.entries, self.codec)
        if self.idempotent and batch.sequence < 0:
            batch.sequence = queue.next_sequence
            queue.next_sequence = (batch.sequence + len(batch.entries)) % SEQUENCE_LIMIT
            self._numbered += 1
        queue.flying += 1
        batch.in_flight = True
        batch.sent = True
        batch.tries += 1
        return batch

    def put_back(self, batch: Batch) -> None:
        """It was taken and then not sent."""
        queue = self._queues[batch.topic, batch.partition]
        self._landed(queue, batch)
        self._again(queue, batch)

    def bytes_of(self, batch: Batch) -> bytes:
        """The batch as it goes into a Produce."""
        assert batch.encoded is not None
        if not self.idempotent:
            return batch.encoded.batch(-1, -1, -1)
        return batch.encoded.batch(self.producer_id, self.producer_epoch, batch.sequence)

    def succeeded(self, batch: Batch, base_offset: int, log_append_time_ms: int = -1) -> None:
        """The broker has it."""
        self._landed(self._queues[batch.topic, batch.partition], batch)
        batch.base_offset = base_offset
        batch.log_append_time_ms = log_append_time_ms
        self._settle(batch)

    def failed(self, batch: Batch, error: LogeionError, now: float, backoff_s: float) -> bool:
        """It was refused or got no answer; True if it will be sent again."""
        queue = self._queues[batch.topic, batch.partition]
        self._landed(queue, batch)
        if isinstance(error, DuplicateSequenceNumberError) and self.idempotent:
            self._settle(batch)
            return True
        if now - batch.born >= self.delivery_timeout_s:
            self._fail(batch, _late(batch, self.delivery_timeout_s, error))
            return False
        if isinstance(error, OutOfOrderSequenceNumberError) and self.idempotent:
            if self.gap:
                self._unnumber(batch)
                self._again(queue, batch)
                return True
            if any(other.sequence != batch.sequence and _before(other, batch) for other in queue.again):
                self._again(queue, batch)
                return True
        if advise(error).retry:
            batch.retry_at = now + backoff_s
            self._again(queue, batch)
            return True
        self._fail(batch, error)
        return False

    def expire(self, now: float, why: Callable[[Slot], LogeionError | None] = lambda _: None) -> list[Batch]:
        """Fails what has waited longer than ``delivery_timeout_s`` and is not in flight; returns it.

        ``why`` knows what has kept a partition's batches from being sent.
        """
        expired = []
        for queue in self._queues.values():
            while queue.again and now - queue.again[0].born >= self.delivery_timeout_s:
                expired.append(queue.again.pop(0))
            while queue.waiting and now - queue.waiting[0].born >= self.delivery_timeout_s:
                expired.append(queue.waiting.popleft())
            if queue.open is not None and now - queue.open.born >= self.delivery_timeout_s:
                expired.append(queue.open)
                queue.open = None
        for batch in expired:
            self._fail(batch, _late(batch, self.delivery_timeout_s, why((batch.topic, batch.partition))))
        return expired

    def fail_all(self, error: LogeionError) -> None:
        """Nothing will be sent any more."""
        for queue in self._queues.values():
            batches = [*queue.again, *queue.waiting, *([queue.open] if queue.open is not None else [])]
            queue.again, queue.waiting, queue.open = [], deque(), None
            for batch in batches:
                self._fail(batch, error)

    @property
    def needs_producer_id(self) -> bool:
        """Whether an id must be had before anything new can be sent."""
        if not self.idempotent:
            return False
        return self.producer_id < 0 or (self.gap and self._numbered == 0)

    def set_producer_id(self, producer_id: int, epoch: int) -> None:
        """A new id: sequences start at 0 everywhere."""
        self.producer_id = producer_id
        self.producer_epoch = epoch
        self.gap = False
        for queue in self._queues.values():
            queue.next_sequence = 0

    @property
    def empty(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return all(queue.empty for queue in self._queues.values())

    def _landed(self, queue: _Queue, batch: Batch) -> None:
        if batch.in_flight:
            batch.in_flight = False
            queue.flying -= 1

    def _again(self, queue: _Queue, batch: Batch) -> None:
        """Back among those that leave first; unnumbered ones stand behind, in the order they were born."""
        queue.again.append(batch)
        queue.again.sort(key=lambda one: (one.sequence < 0, one.number))

    def _unnumber(self, batch: Batch) -> None:
        if batch.sequence >= 0:
            batch.sequence = -1
            self._numbered -= 1

    def _fail(self, batch: Batch, error: LogeionError) -> None:
        if batch.sequence >= 0:
            self.gap = True
        batch.error = error
        self._settle(batch)

    def _settle(self, batch: Batch) -> None:
        if batch.sequence >= 0:
            self._numbered -= 1
        batch.done = True
        self.used -= batch.size - BATCH_OVERHEAD
        self.records -= len(batch.entries)
        batch.entries = []
        batch.encoded = None
        for callback in batch.callbacks:
            callback(batch)
        batch.callbacks = []


def _before(one: Batch, other: Batch) -> bool:
    """Whether its sequence comes earlier, across the wrap at 2^31."""
    return one.sequence >= 0 and (other.sequence - one.sequence) % SEQUENCE_LIMIT < SEQUENCE_LIMIT // 2


def _late(batch: Batch, limit_s: float, last: LogeionError | None) -> DeadlineError:
    why = f"; last: {last}" if last is not None else ""
    hint = last.hint if isinstance(last, ClientError) and last.hint else "see whether the partition has a leader"
    return DeadlineError(
        f"{batch.topic}[{batch.partition}]: not delivered within {limit_s:g} s, {batch.tries} attempts{why}",
        f"{hint}; allow more time (delivery_timeout_ms)",
    )
