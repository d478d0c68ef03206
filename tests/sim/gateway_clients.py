"""Clients of gateways: they speak Kafka's protocol, byte for byte, to any host's gateway, and follow its hints.

Some look at leader epochs, as today's clients do, others do not; some hang up when they are refused, others send again
on the connection that they have. All go to another gateway when they are cut off, and now and then for no reason.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from logeion.wire.apis import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
    FetchPartition,
    FetchRequest,
    FetchTopic,
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
    MetadataRequest,
    MetadataRequestTopic,
    PartitionProduceData,
    ProduceRequest,
    Struct,
    TopicProduceData,
)
from logeion.wire.codec import decode_response, encode_request
from logeion.wire.errors import (
    NotLeaderOrFollowerError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumberError,
)
from tests.sim.clients import IN_FLIGHT, RETRY_S, Backlog, Client
from tests.sim.engine import Violated
from tests.sim.gateways import GatewayProcess
from tests.sim.lanes import BYTES
from tests.sim.logview import parse
from tests.sim.network import Port

if TYPE_CHECKING:
    from logeion.actors.metadata import PartitionChanged
    from tests.sim.cluster_judge import Key, Truth
    from tests.sim.world import World

PRODUCE, FETCH, LIST_OFFSETS, METADATA, DELETE_RECORDS = 0, 1, 2, 3, 21
# The first versions of Produce and Fetch that name topics by id.
IDS_SINCE = 13
EARLIEST, LATEST = -2, -1
REQUEST_S = 1.0

OnAnswer = Callable[[Any], None]


class GatewayClient(Client):
    """One connection at a time: to any gateway to ask who leads, then to one of the leader's host."""

    def __init__(self, world: World, name: str, number: int, key: Key) -> None:
        super().__init__(world, name, number, key)
        chance = self.engine.random
        # Whether it believes nobody who knows less than it has heard.
        self.careful = chance.random() < 0.7
        self.metadata_version = chance.choice((10, 12, 13))
        self.port: Port | None = None
        self._unanswered: deque[tuple[int, int, int, OnAnswer]] = deque()
        self._correlation = 0

    @property
    def truth(self) -> Truth | None:
        """None once the topic is deleted."""
        return self.world.judge.truths.get(self.key)

    @property
    def topic(self) -> str:
        """Its name."""
        truth = self.truth
        return truth.directory.rpartition("-")[0] if truth is not None else ""

    # Connections

    def _ask(self) -> None:
        """By any host's gateway."""
        self._looking = False
        self._connect(self.engine.random.randint(1, len(self.world.hosts)), self._bootstrapped)

    def _connect(self, number: int, opened: Callable[[Port], None]) -> None:
        self._hang_up()
        self._looking = True

        def failed() -> None:
            self._looking = False
            self.look(RETRY_S)

        def connected(port: Port) -> None:
            self._looking = False
            self.port = port
            port.on_message = self._arrived
            port.on_closed = self._closed
            opened(port)

        self.world.network.dial(self, lambda: self._listener(number), connected, failed, number)

    def _listener(self, number: int) -> GatewayProcess | None:
        return self.world.a_gateway(number)

    def _hang_up(self) -> None:
        port, self.port = self.port, None
        self._unanswered.clear()
        if port is not None:
            port.on_closed = None
            port.close()

    def _closed(self, port: Port) -> None:
        if self.port is port:
            self.again()

    def again(self) -> None:
        """Something is wrong: find the leader anew."""
        self._hang_up()
        self.parted()
        self.look(self.engine.random.uniform(0.0, RETRY_S))

    def _bootstrapped(self, port: Port) -> None:
        self._ask_who_leads(port)

    def _ask_who_leads(self, port: Port) -> None:
        gateway = port.other
        assert isinstance(gateway, GatewayProcess)
        knew = self.world.gateway_judge.knows(gateway, self.key)
        body = MetadataRequest(topics=[MetadataRequestTopic(name=self.topic)], allow_auto_topic_creation=False)
        self.request(METADATA, self.metadata_version, body, lambda answer: self._told(port, answer, knew))

    def _told(self, port: Port, answer: Any, knew: int) -> None:
        truth = self.truth
        topic = next((one for one in answer.topics if one.topic_id == self.key[0]), None)
        found = [one for one in topic.partitions if one.partition_index == self.key[1]] if topic is not None else []
        if truth is None or not found:
            self.again()
            return
        leader, epoch = found[0].leader_id, found[0].leader_epoch
        self.world.gateway_judge.told(port, truth, leader, epoch, knew)
        if self.careful and epoch < self.epoch:
            self.again()
            return
        self.epoch = epoch
        if leader < 0:
            self.later(RETRY_S, self._ask_later, port)
        elif leader == port.other.host:
            self.connected(port)
        elif any(broker.node_id == leader for broker in answer.brokers):
            self.parted()
            self._connect(leader, self.connected)
        else:
            self.again()

    def _ask_later(self, port: Port) -> None:
        if self.port is port:
            if self.engine.random.random() < 0.5:
                self._ask_who_leads(port)
            else:
                self.again()

    def moved(self, port: Port, result: Any, answer: Any) -> None:
        """It is not the leader; perhaps it says who is."""
        truth, hint = self.truth, result.current_leader
        if truth is None or hint is None or hint.leader_id < 0:
            self.again()
            return
        self.world.gateway_judge.told(port, truth, hint.leader_id, hint.leader_epoch, -1)
        self.world.gateway_judge.count("hints")
        if self.careful and hint.leader_epoch < self.epoch:
            self.again()
            return
        self.epoch = hint.leader_epoch
        if answer.node_endpoints and not any(one.node_id == hint.leader_id for one in answer.node_endpoints):
            raise Violated(f"{port.other.name} hints at {hint}, and says where others are: {answer.node_endpoints}")
        self.parted()
        self._connect(hint.leader_id, self.connected)

    def connected(self, port: Port) -> None:
        """To a gateway of who is said to lead."""

    # Requests

    def request(
        self, key: int, version: int, body: Struct, on_answer: OnAnswer | None, timeout_s: float = REQUEST_S
    ) -> None:
        """Ask; if no answer comes in time, the connection is given up."""
        port = self.port
        assert port is not None
        self._correlation += 1
        number = self._correlation
        frame = b"".join(encode_request(key, version, number, self.name, body))  # type: ignore[arg-type]
        if on_answer is not None:
            gateway = port.other
            assert isinstance(gateway, GatewayProcess)
            if key != METADATA and gateway.gateway.image.topic_by_id(self.key[0]) is None:
                # It may know an earlier topic of this name, and answers for that.
                on_answer = self._foreign
            self._unanswered.append((number, key, version, on_answer))
            self.later(timeout_s, self._waited, port, number)
        port.tell(BYTES, frame)

    def _waited(self, port: Port, number: int) -> None:
        if self.port is port and self._unanswered and self._unanswered[0][0] <= number:
            self.world.gateway_judge.count("no answer")
            self.again()

    def _arrived(self, port: Port, request: int, message: Any, payload: bytes) -> None:
        if self.port is not port:
            return
        if not self._unanswered:
            raise Violated(f"{port.other.name} answers {self.name} what it has not asked")
        number, key, version, on_answer = self._unanswered.popleft()
        correlation, answer = decode_response(key, version, payload[4:])
        if correlation != number:
            raise Violated(f"{port.other.name} answers {self.name} out of order: {correlation}, {number} was first")
        on_answer(answer)

    def _foreign(self, answer: Any) -> None:
        self.again()

    def trim(self, offset: int) -> None:
        """DeleteRecords, by whomever this one talks to."""
        if self.port is None:
            return
        partition = DeleteRecordsPartition(partition_index=self.key[1], offset=offset)
        topic = DeleteRecordsTopic(name=self.topic, partitions=[partition])
        self.request(DELETE_RECORDS, 2, DeleteRecordsRequest(topics=[topic], timeout_ms=500), lambda answer: None, 2.0)

    @property
    def reaches(self) -> bool:
        return self.port is not None


class Inspector(GatewayClient):
    """Asks one gateway in the end, when all is at rest, who leads: it must be who does."""

    def __init__(self, world: World, number: int, key: Key, gateway: GatewayProcess) -> None:
        super().__init__(world, f"inspector-{number}", number, key)
        self._gateway = gateway
        self.answered = False
        # What was committed last when it did not say so: preferred leaders are elected in the calm, too.
        self._doubted: PartitionChanged | None = None
        self._connect(gateway.host, self._ask_who_leads)

    @property
    def done(self) -> bool:
        return self.answered

    def _listener(self, number: int) -> GatewayProcess | None:
        return self._gateway

    def _told(self, port: Port, answer: Any, knew: int) -> None:
        truth = self.truth
        assert truth is not None and truth.newest is not None
        told = [
            (one.leader_id, one.leader_epoch)
            for topic in answer.topics
            for one in topic.partitions
            if (topic.topic_id, one.partition_index) == self.key
        ]
        right = told == [(truth.newest.leader, truth.newest.leader_epoch)]
        if not right and truth.newest is self._doubted:
            raise Violated(f"in the end {port.other.name} tells of {truth.directory} that {told} leads: {truth.newest}")
        self._doubted = truth.newest
        self.answered = right
        self._hang_up()
        if not right:
            self.later(RETRY_S, self._connect, self._gateway.host, self._ask_who_leads)


class GatewaySender(GatewayClient):
    """What producers have in common."""

    def __init__(self, world: World, name: str, number: int, key: Key) -> None:
        super().__init__(world, name, number, key)
        chance = self.engine.random
        self.version = chance.choice((9, 12, 13))
        self.timeout_ms = chance.choice((300, 700, 3000))

    def send(self, batch: bytes, acks: int, on_result: Callable[[Port, Any, Any], None]) -> None:
        """One batch; ``on_result`` gets its result and the answer around it."""
        port = self.port
        assert port is not None
        data = PartitionProduceData(index=self.key[1], records=batch)
        topic = TopicProduceData(name=self.topic, partition_data=[data])
        if self.version >= IDS_SINCE:
            topic.topic_id = self.key[0]
        body = ProduceRequest(acks=acks, timeout_ms=self.timeout_ms, topic_data=[topic])

        def answered(answer: Any) -> None:
            result = answer.responses[0].partition_responses[0]
            truth = self.truth
            if result.error_code == 0 and truth is not None:
                self.world.gateway_judge.acknowledged(port, truth, batch, result.base_offset, acks)
            on_result(port, result, answer)

        timeout_s = self.timeout_ms / 1000 + REQUEST_S
        self.request(PRODUCE, self.version, body, answered if acks else None, timeout_s)


class GatewayProducer(GatewaySender, Backlog):
    """Idempotent, acks=all: what is not acknowledged is sent again, in order, until it is."""

    def __init__(self, world: World, number: int, key: Key, pace: float, until: float) -> None:
        super().__init__(world, f"producer-{number}", number, key)
        self.producer_id = number
        self.pace = pace
        self.until = until
        # Whether it hangs up when it is refused, or sends again there once all that was under way is answered.
        self.hangs_up = self.engine.random.random() < 0.4
        self.sequence = 0
        self.waiting = deque()
        # The first so many of those that wait are under way.
        self._sent = 0
        self._refused: tuple[Any, Any] | None = None
        self.acked = 0
        self.look()
        self.later(pace, self._produce)

    def connected(self, port: Port) -> None:
        self._leads = port
        self._send()

    def parted(self) -> None:
        self._leads = None
        self._sent = 0
        self._refused = None

    _leads: Port | None = None

    def _send(self) -> None:
        while (
            self._leads is not None
            and self._leads is self.port
            and self._refused is None
            and self._sent < min(IN_FLIGHT, len(self.waiting))
        ):
            sequence, batch = self.waiting[self._sent]
            self._sent += 1
            self.send(batch, -1, self._result_of(sequence))

    def _result_of(self, sequence: int) -> Callable[[Port, Any, Any], None]:
        def came(port: Port, result: Any, answer: Any) -> None:
            self._sent -= 1
            first = bool(self.waiting) and self.waiting[0][0] == sequence
            if result.error_code == 0 and first and self._refused is None:
                self.waiting.popleft()
                self.acked += 1
                self._send()
                return
            if first and result.error_code == OutOfOrderSequenceNumberError.code:
                self._out_of_order(result)
            if self._refused is None:
                self.world.gateway_judge.count(f"produce {result.error_code}")
                self._refused = (result, answer)
            if self.hangs_up:
                self.again()
            elif not self._sent:
                self._send_again(port)

        return came

    def _send_again(self, port: Port) -> None:
        """All that was under way is answered."""
        assert self._refused is not None
        result, answer = self._refused
        if result.error_code == NotLeaderOrFollowerError.code and result.current_leader is not None:
            self.moved(port, result, answer)
        elif self.engine.random.random() < 0.6:
            self.later(self.engine.random.uniform(0.0, RETRY_S), self._go_on, port)
        else:
            self.again()

    def _go_on(self, port: Port) -> None:
        if self.port is port:
            self._refused = None
            self._send()

    def _out_of_order(self, result: Any) -> None:
        """The first batch that is not acknowledged does not follow what some leader knows."""
        truth, (sequence, batch) = self.truth, self.waiting[0]
        newest = truth.newest if truth is not None else None
        epoch = self.world.gateway_judge.refused_by(batch, OutOfOrderSequenceNumberError.code)
        if truth is None or newest is None or newest.leader_epoch != epoch:
            return  # a leader whose time is over knows less than it should
        # What was committed and deleted before its ack was heard, a replica that began after it does not know.
        if self.acked and not self.was_deleted(truth):
            raise Violated(
                f"exactly once: producer {self.producer_id} has acks for all before sequence {sequence}, and "
                f"the leader says: {result.error_message}"
            )
        # As for a producer that asks a leader itself: a log that knows nothing of it takes any sequence for its first.
        self.begin_again()
        self.world.gateway_judge.count("another id")


class GatewayCareless(GatewaySender):
    """acks=1 or 0, no producer id, never twice."""

    def __init__(self, world: World, number: int, key: Key, pace: float, until: float) -> None:
        super().__init__(world, f"careless-{number}", number, key)
        self.pace = pace
        self.until = until
        self._leads: Port | None = None
        self.look()
        self.later(pace, self._produce)

    @property
    def done(self) -> bool:
        return True

    def connected(self, port: Port) -> None:
        self._leads = port

    def parted(self) -> None:
        self._leads = None

    def _produce(self) -> None:
        if self.engine.time >= self.until:
            return
        chance = self.engine.random
        if self._leads is not None and self._leads is self.port:
            batch = self.world.batch(-1, -1, chance.choice((1, 2)))
            self.send(batch, chance.choice((0, 1)), self._result)
        self.later(chance.expovariate(1 / self.pace), self._produce)

    def _result(self, port: Port, result: Any, answer: Any) -> None:
        if result.error_code == 0 or self.port is not port:
            return
        if result.error_code == NotLeaderOrFollowerError.code:
            self.moved(port, result, answer)
        else:
            self.again()


class GatewayConsumer(GatewayClient):
    """Reads on from where it is; what it is given must be true. It asks where the log ends, too."""

    def __init__(self, world: World, number: int, key: Key) -> None:
        super().__init__(world, f"consumer-{number}", number, key)
        chance = self.engine.random
        self.version = chance.choice((12, 13, 16, 18))
        self.max_wait_ms = chance.choice((0, 50, 500))
        self.max_bytes = chance.choice((1, 300, 1_048_576))
        self.restless = chance.random() < 0.4
        self.position = 0
        self.look()

    @property
    def done(self) -> bool:
        truth = self.truth
        return truth is not None and self.position >= truth.end

    def connected(self, port: Port) -> None:
        self._next(port)

    def _bootstrapped(self, port: Port) -> None:
        if self.restless and not self.careful and self.engine.random.random() < 0.3:
            # What it was told long ago, or by somebody who does not know.
            self._next(port)
        else:
            self._ask_who_leads(port)

    def _next(self, port: Port) -> None:
        if self.port is not port:
            return
        chance = self.engine.random
        if self.restless and chance.random() < 0.1:
            self.again()
        elif chance.random() < 0.1:
            self._list(port, LATEST)
        else:
            self._fetch(port)

    def _fetch(self, port: Port) -> None:
        asked = FetchPartition(
            partition=self.key[1],
            current_leader_epoch=self.epoch if self.careful else -1,
            fetch_offset=self.position,
            partition_max_bytes=self.max_bytes,
        )
        topic = FetchTopic(topic=self.topic, partitions=[asked])
        if self.version >= IDS_SINCE:
            topic.topic_id = self.key[0]
        body = FetchRequest(max_wait_ms=self.max_wait_ms, min_bytes=1, topics=[topic])
        self.request(FETCH, self.version, body, lambda answer: self._fetched(port, answer), 3.0)

    def _fetched(self, port: Port, answer: Any) -> None:
        result, truth = answer.responses[0].partitions[0], self.truth
        if truth is None:
            self.again()
            return
        judge = self.world.gateway_judge
        judge.count(f"fetch {result.error_code}")
        judge.watermark(port, truth, result.high_watermark)
        if result.error_code == 0:
            if result.records:
                batches = parse(bytes(result.records))
                self.position = self.world.judge.consumed(truth, self.position, batches)
            self.later(0.0 if self.max_wait_ms and result.records else 0.02, self._next, port)
        elif result.error_code == OffsetOutOfRangeError.code:
            judge.out_of_range(port, truth, self.position)
            self._list(port, EARLIEST)
        elif result.error_code == NotLeaderOrFollowerError.code:
            self.moved(port, result, answer)
        else:
            self.again()

    def _list(self, port: Port, timestamp: int) -> None:
        truth = self.truth
        if truth is None:
            self.again()
            return
        asked = ListOffsetsPartition(partition_index=self.key[1], timestamp=timestamp)
        body = ListOffsetsRequest(topics=[ListOffsetsTopic(name=self.topic, partitions=[asked])], timeout_ms=1000)
        committed = truth.end
        came = self._latest if timestamp == LATEST else self._earliest
        self.request(LIST_OFFSETS, 10, body, lambda answer: came(port, answer, committed), 3.0)

    def _latest(self, port: Port, answer: Any, committed: int) -> None:
        result, truth = answer.topics[0].partitions[0], self.truth
        if truth is None or result.error_code:
            self.world.gateway_judge.count(f"latest {result.error_code}")
            self.again()
            return
        self.world.gateway_judge.latest(port, truth, result.offset, committed)
        self._next(port)

    def _earliest(self, port: Port, answer: Any, committed: int) -> None:
        result, truth = answer.topics[0].partitions[0], self.truth
        if truth is None or result.error_code:
            self.again()
            return
        self.position = max(self.position, self.world.judge.out_of_range(truth, self.position, result.offset))
        self.later(0.02, self._next, port)
