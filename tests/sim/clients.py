"""Clients: idempotent producers with several batches in flight, careless ones, and consumers.

They talk to a partition's leader as a gateway would have them do, and learn who leads from any host that answers.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from logeion.actors import messages as m
from logeion.wire.errors import OutOfOrderSequenceNumberError
from logeion.wire.records import Record, build_batch
from tests.sim.engine import Violated
from tests.sim.network import Port
from tests.sim.process import Process
from tests.sim.replicas import Actor

if TYPE_CHECKING:
    from tests.sim.cluster_judge import Key, Truth
    from tests.sim.logview import Batch
    from tests.sim.world import World

IN_FLIGHT = 5
REQUEST_S = 1.0
RETRY_S = 0.08


class Client(Process):
    """Follows one partition's leader: a lane to it, renewed whenever something is wrong with it."""

    def __init__(self, world: World, name: str, number: int, key: Key) -> None:
        super().__init__(world, name, host=100 + number)
        self.key = key
        self.lane: Port | None = None
        self.epoch = -1
        self._looking = False

    def look(self, delay: float = 0.0) -> None:
        """Ask some host who leads, then dial."""
        if not self._looking:
            self._looking = True
            self.later(delay + self.world.network.delay() * 2, self._ask)

    def _ask(self) -> None:
        self._looking = False
        found = self.world.who_leads(self.key, self.host)
        if found is None:
            self.look(RETRY_S)
            return
        host, epoch = found
        self._looking = True

        def failed() -> None:
            self._looking = False
            self.look(RETRY_S)

        def opened(lane: Port) -> None:
            self._looking = False
            self.lane, self.epoch = lane, epoch
            lane.on_closed = self._closed
            self.connected(lane)

        self.world.network.dial(self, lambda: self.world.leading(host, self.key), opened, failed, host.number)

    def _closed(self, lane: Port) -> None:
        if self.lane is lane:
            self.lane = None
            self.parted()
            self.look(self.engine.random.uniform(0.0, RETRY_S))

    def again(self) -> None:
        """Something is wrong: find the leader anew."""
        lane, self.lane = self.lane, None
        if lane is not None:
            lane.on_closed = None
            lane.close()
        self.parted()
        self.look(self.engine.random.uniform(0.0, RETRY_S))

    @property
    def reaches(self) -> bool:
        """Whether it talks to anybody."""
        return self.lane is not None

    def trim(self, offset: int) -> None:
        """Have what lies before this offset deleted."""
        if self.lane is not None:
            self.lane.call(m.TrimLog(epoch=self.epoch, offset=offset), lambda reply: None, 1.0)

    def connected(self, lane: Port) -> None:
        """A lane to who is said to lead."""

    def parted(self) -> None:
        """The lane is gone; nothing that was asked by it will be answered."""

    def stepped(self) -> None:
        """Clients have no deadline of their own."""


class Backlog(Client):
    """What idempotent producers have to send, until it is acknowledged."""

    producer_id: int
    pace: float
    until: float
    sequence: int
    # Not acknowledged yet, in order: (sequence, batch).
    waiting: deque[tuple[int, bytes]]

    @property
    def done(self) -> bool:
        return self.engine.time >= self.until and not self.waiting

    def _produce(self) -> None:
        if self.engine.time >= self.until:
            return
        chance = self.engine.random
        if len(self.waiting) < 10:
            for _ in range(chance.choice((1, 1, 2, 4))):
                count = chance.choice((1, 1, 3))
                self.waiting.append((self.sequence, self.world.batch(self.producer_id, self.sequence, count)))
                self.sequence += count
            self._send()
        self.later(chance.expovariate(1 / self.pace), self._produce)

    def _send(self) -> None:
        """Whatever may be under way now."""
        raise NotImplementedError

    def begin_again(self) -> None:
        """As somebody else, with other batches instead of those that wait."""
        self.world.note(f"{self.name} begins again with another id")
        self.producer_id += 1000
        old, self.waiting, self.sequence = self.waiting, deque(), 0
        for _ in old:
            self.waiting.append((self.sequence, self.world.batch(self.producer_id, self.sequence, 1)))
            self.sequence += 1

    def was_deleted(self, truth: Truth) -> bool:
        """Whether the first batch that is not acknowledged was committed, and deleted by its owner since."""
        first = self.waiting[0][0]
        return any(
            batch.producer == self.producer_id and batch.sequence == first and batch.base < truth.trimmed
            for batch in truth.batches.values()
        )


class Producer(Backlog):
    """Idempotent, acks=all: what is not acknowledged is sent again, in order, until it is."""

    def __init__(self, world: World, number: int, key: Key, pace: float, until: float) -> None:
        super().__init__(world, f"producer-{number}", number, key)
        self.producer_id = number
        self.pace = pace
        self.until = until
        self.sequence = 0
        self.waiting = deque()
        self._sent = 0
        self._round = 0
        self.acked = 0
        self.look()
        self.later(pace, self._produce)

    def connected(self, lane: Port) -> None:
        self._sent = 0
        self._round += 1
        self._send()

    def parted(self) -> None:
        self._sent = 0
        self._round += 1

    def _send(self) -> None:
        lane = self.lane
        while lane is not None and lane.open and self._sent < min(IN_FLIGHT, len(self.waiting)):
            sequence, batch = self.waiting[self._sent]
            self._sent += 1
            message = m.Append(epoch=self.epoch, acks=-1, timeout_ms=700)
            lane.call(message, self._answer_to(sequence, self._round), REQUEST_S, batch)

    def _answer_to(self, sequence: int, this: int) -> Any:
        def answered(reply: m.Message | None) -> None:
            if this != self._round:
                return
            if isinstance(reply, m.Appended):
                if self.waiting and self.waiting[0][0] == sequence:
                    self.waiting.popleft()
                    self._sent -= 1
                    self.acked += 1
                    self._send()
                else:
                    # Answers come in order; an earlier one is missing, so that one was refused.
                    self.again()
                return
            first = bool(self.waiting) and self.waiting[0][0] == sequence
            if first and isinstance(reply, m.Refused) and reply.code == OutOfOrderSequenceNumberError.code:
                self._out_of_order(reply)
            self.again()

        return answered

    def _out_of_order(self, reply: m.Refused) -> None:
        """The first batch that is not acknowledged does not follow what the leader knows."""
        truth = self.world.judge.truths.get(self.key)
        newest = truth.newest if truth is not None else None
        if truth is None or newest is None or newest.leader_epoch != self.epoch:
            return  # a leader whose time is over knows less than it should
        lost = self.world.judge.may_have_lost(self.key, self.producer_id)
        if self.acked and not lost and not self.was_deleted(truth):
            raise Violated(
                f"exactly once: producer {self.producer_id} has acks for all before sequence {self.waiting[0][0]}, and "
                f"the leader says: {reply.reason}"
            )
        # Its first batches were refused, a later one was not, and a log that knows nothing of a producer takes any
        # sequence for its first (as Kafka's does). Or its batch is in, and was deleted before its ack was heard: a
        # replica that began after it does not know it any more. Or what was acknowledged is gone, as it may be. Begin
        # again as somebody else.
        self.begin_again()
        self.acked = 0


class CarelessProducer(Client):
    """acks=1, no producer id, never twice: what a failover loses of it is lost. It makes logs differ."""

    def __init__(self, world: World, number: int, key: Key, pace: float, until: float) -> None:
        super().__init__(world, f"careless-{number}", number, key)
        self.pace = pace
        self.until = until
        self.look()
        self.later(pace, self._produce)

    @property
    def done(self) -> bool:
        return True

    def _produce(self) -> None:
        if self.engine.time >= self.until:
            return
        lane = self.lane
        if lane is not None and lane.open:
            batch = self.world.batch(-1, -1, self.engine.random.choice((1, 2)))
            message = m.Append(epoch=self.epoch, acks=self.engine.random.choice((0, 1)), timeout_ms=700)

            def answered(reply: m.Message | None) -> None:
                if not isinstance(reply, m.Appended) and self.lane is lane:
                    self.again()

            lane.call(message, answered, REQUEST_S, batch)
        self.later(self.engine.random.expovariate(1 / self.pace), self._produce)


class Consumer(Client):
    """Reads on from where it is, below the watermark that the leader tells; what it is given must be true."""

    def __init__(self, world: World, number: int, key: Key) -> None:
        super().__init__(world, f"consumer-{number}", number, key)
        self.position = 0
        # What it has read last, and of which epoch that was.
        self.last: Batch | None = None
        self.last_epoch = -1
        self.look()

    @property
    def done(self) -> bool:
        truth = self.world.judge.truths.get(self.key)
        return truth is not None and self.position >= truth.end

    def connected(self, lane: Port) -> None:
        self._watch(lane)

    def _watch(self, lane: Port) -> None:
        def answered(reply: m.Message | None) -> None:
            if self.lane is not lane:
                return
            if isinstance(reply, m.Advanced):
                self._read(lane, reply)
                if self.lane is lane:
                    self.later(0.02, self._watch, lane)
            elif reply is None and lane.open:
                self._watch(lane)
            else:
                self.again()

        lane.call(m.Watch(epoch=self.epoch, offset=self.position), answered, 3.0)

    def _read(self, lane: Port, advanced: m.Advanced) -> None:
        truth = self.world.judge.truth_of(self.key, self.epoch)
        if truth is None or not lane.peer.open:
            return
        if advanced.high_watermark <= self.position:
            return
        on = lane.other.on
        assert on is not None
        view = self.world.judge.replica(on.number, truth).here
        view.refresh()
        # What was deleted after the answer is missed by the reader's second look at the log's start, as in a gateway.
        log = lane.other.log if isinstance(lane.other, Actor) else None
        log_start = max(advanced.log_start, log.start_offset if log is not None else 0)
        if self.position < log_start:
            # OFFSET_OUT_OF_RANGE, and the consumer begins where the log does.
            self.world.note(f"{self.name} at {self.position} is out of range: the log begins at {log_start}")
            self.position = self.world.judge.out_of_range(truth, self.position, log_start)
            self.last, self.last_epoch = None, -1
        if advanced.high_watermark <= self.position:
            return
        batches = [batch for batch in view.holding(self.position) if batch.base < advanced.high_watermark]
        if not batches or batches[-1].next < advanced.high_watermark:
            raise Violated(
                f"I6: a consumer of {truth.describe()} at {self.position} is told of {advanced.high_watermark}, but "
                f"finds records to {batches[-1].next if batches else self.position} only"
            )
        self.position = self.world.judge.consumed(truth, self.position, batches)
        self.last, self.last_epoch = batches[-1], batches[-1].epoch


def make_batch(producer_id: int, sequence: int, values: list[bytes], now_ms: int) -> bytes:
    """A batch as a client sends it."""
    records = [Record(number, now_ms, None, value) for number, value in enumerate(values)]
    epoch = 0 if producer_id >= 0 else -1
    return build_batch(records, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence)
