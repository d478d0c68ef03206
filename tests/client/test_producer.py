"""The producer's own rules, with brokers that are a few lines and no socket."""

from __future__ import annotations

import asyncio
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, cast

import pytest

from logeion.client import sender
from logeion.client.background import background
from logeion.client.cluster import Cluster
from logeion.client.errors import BufferFullError, ClientError, ClosedError, DeadlineError
from logeion.client.metadata import Metadata
from logeion.client.partitioner import Sticky, by_crc32
from logeion.client.placement import Placement
from logeion.client.producer import Producer
from logeion.client.record_bytes import Encoded
from logeion.client.sync_producer import Producer as SyncProducer
from logeion.errors import ConfigError, UnknownTopicOrPartitionError
from logeion.wire.apis import (
    InitProducerIdResponse,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from logeion.wire.records import read_records

Work = Callable[[], Coroutine[Any, Any, None]]


def heard(count: int, leaderless: Iterable[int] = ()) -> MetadataResponse:
    """Metadata of topic "t", led by broker 1."""
    partitions = [
        MetadataResponsePartition(partition_index=number, leader_id=-1 if number in leaderless else 1)
        for number in range(count)
    ]
    brokers = [MetadataResponseBroker(node_id=1, host="h", port=1)]
    return MetadataResponse(brokers=brokers, topics=[MetadataResponseTopic(name="t", partitions=partitions)])


class FakeBroker:
    """Is its own cluster and its own connection; answers at once unless it is told to hold."""

    def __init__(self, partitions: int = 1) -> None:
        self.metadata = Metadata()
        self.partitions = partitions
        self.metadata.apply(heard(partitions), everything=True)
        self.batches: list[tuple[int, list[Any]]] = []  # partition, its records
        self.hold = False
        self.held: list[tuple[asyncio.Future[ProduceResponse], ProduceResponse]] = []
        self.writable = True
        self.writers: set[Callable[[], object]] = set()
        self.refreshed = 0

    def values(self) -> list[bytes]:
        return [record.value for _, records in self.batches for record in records]

    # What the producer uses of a cluster

    async def refresh(self, topics: Iterable[str] | None = None, *, auto_create: bool = False) -> None:
        self.refreshed += 1
        self.metadata.apply(heard(self.partitions), everything=True)

    async def topic(self, name: str, *, auto_create: bool = False) -> object:
        return self.metadata.topic(name)

    async def retrying(self, attempt: Callable[[], Awaitable[Any]], *, what: str, deadline_s: float) -> Any:
        return await attempt()

    async def call(self, api_key: int, body: object) -> InitProducerIdResponse:
        return InitProducerIdResponse(producer_id=7, producer_epoch=0)

    def open_connection(self, node: int) -> FakeBroker:
        return self

    # What it uses of a connection

    def _taken(self, request: ProduceRequest) -> ProduceResponse:
        responses = []
        for topic in request.topic_data:
            for data in topic.partition_data:
                self.batches.append((data.index, list(read_records(data.records or b"", max_bytes=1 << 30))))
                placed = PartitionProduceResponse(index=data.index, base_offset=len(self.batches))
                responses.append(TopicProduceResponse(name=topic.name, partition_responses=[placed]))
        return ProduceResponse(responses=responses)

    def send(self, api_key: int, body: ProduceRequest, *, timeout_s: float) -> asyncio.Future[ProduceResponse]:
        answer: asyncio.Future[ProduceResponse] = asyncio.get_running_loop().create_future()
        response = self._taken(body)
        if self.hold:
            self.held.append((answer, response))
        else:
            answer.set_result(response)
        return answer

    def send_unanswered(self, api_key: int, body: ProduceRequest) -> None:
        self._taken(body)
        self.writable = not self.hold

    def when_writable(self, tell: Callable[[], object]) -> None:
        self.writers.add(tell)

    async def drained(self) -> None:
        while not self.writable:
            await asyncio.sleep(0.001)

    def answer(self) -> None:
        """What was held."""
        held, self.held, self.hold = self.held, [], False
        for future, response in held:
            future.set_result(response)

    def started(self, **settings: Any) -> Producer:
        return Producer(cast(Cluster, self), **settings)

    def synchronous(self, **settings: Any) -> SyncProducer:
        return SyncProducer.of(cast(Cluster, self), background(), settings)


def run(work: Work) -> None:
    asyncio.run(asyncio.wait_for(work(), 10))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


# Mistakes of the program: each is told where it is made, and costs nothing else

MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"headers": [("a", "text")]}, TypeError, "header 'a': its value is bytes or None, not str"),
    ({"headers": [(b"a", b"1")]}, TypeError, "a header's name is a str, not bytes"),
    ({"headers": ["name"]}, TypeError, "a pair"),
    ({"headers": {"a": b"1"}}, TypeError, "not dict"),
    ({"headers": [("a",)]}, TypeError, "a pair"),
    ({"headers": [("\ud800", b"1")]}, ValueError, "no UTF-8 form"),
    ({"timestamp_ms": 1.5}, TypeError, "a whole number, not 1.5"),
    ({"timestamp_ms": "1"}, TypeError, "a whole number"),
    ({"timestamp_ms": -1}, ValueError, "from 0 to"),
    ({"timestamp_ms": 1 << 63}, ValueError, "from 0 to"),
    ({"partition": "0"}, TypeError, "."),
    ({"partition": 0.0}, TypeError, "integer"),
]


@pytest.mark.parametrize(("arguments", "kind", "said"), MISTAKES)
def test_headers_timestamps_and_partitions_that_make_no_sense_are_refused_by_send(
    arguments: dict[str, Any], kind: type[Exception], said: str
) -> None:
    broker = FakeBroker()

    async def work() -> None:
        async with broker.started() as producer:
            with pytest.raises(kind, match=said):
                await producer.send("t", b"bad", **arguments)
            with pytest.raises(kind, match=said):
                producer.send_nowait("t", b"bad", **arguments)
            await producer.send("t", b"good")

    run(work)
    with broker.synchronous() as producer:
        with pytest.raises(kind, match=said):
            producer.send("t", b"bad", **arguments)
        producer.send("t", b"good").result(5)
    assert broker.values() == [b"good", b"good"]


def test_headers_are_taken_as_they_are_when_they_are_given() -> None:
    broker = FakeBroker()
    content = bytearray(b"1")
    headers: list[Any] = [("a", content), ("b", None)]
    with broker.synchronous(linger_ms=1000) as producer:
        producer.send("t", b"x", headers=headers, timestamp_ms=True + 4)
        headers[0] = ("a", "text")
        content[:] = b"2"
        producer.send("t", b"y", headers=(pair for pair in [("c", b"3")]))  # type: ignore[arg-type]
    ((_, (first, second)),) = broker.batches
    assert (first.headers, first.timestamp, second.headers) == ([("a", b"1"), ("b", None)], 5, [("c", b"3")])


@pytest.mark.parametrize("chosen", [7, -1, 0.5, ZeroDivisionError("theirs"), TimeoutError("theirs")])
def test_a_partitioner_that_fails_fails_its_record_and_no_other(chosen: Any) -> None:
    broker = FakeBroker()

    def partitioner(key: bytes, count: int) -> int:
        if key == b"bad":
            if isinstance(chosen, Exception):
                raise chosen
            return cast(int, chosen)
        return 0

    kinds = (ZeroDivisionError, TimeoutError, TypeError, ValueError)
    with broker.synchronous(partitioner=partitioner) as producer:
        futures = [producer.send("t", b"x", key) for key in (b"good", b"bad", b"good")]
        assert isinstance(futures[1].exception(5), kinds)
        producer.flush(5)
        assert [future.succeeded() for future in futures] == [True, False, True]

    async def work() -> None:
        async with broker.started(partitioner=partitioner) as producer:
            with pytest.raises(kinds):
                await producer.send("t", b"x", b"bad")
            await producer.send("t", b"x", b"good")

    run(work)
    assert len(broker.values()) == 3


def test_a_callback_that_raises_leaves_no_other_batch_behind(caplog: pytest.LogCaptureFixture) -> None:
    broker = FakeBroker(3)

    async def work() -> None:
        async with broker.started() as producer:
            await producer.prepare("t")
            sent = [producer.send_nowait("t", b"x", partition=number) for number in range(3)]
            for one in sent:
                one.add_done_callback(lambda _: 1 / 0)
            await producer.flush()
            assert all(one.done() for one in sent)
            await producer.send("t", b"more", partition=2)

    run(work)
    assert len(broker.values()) == 4 and len(caplog.records) == 3


# Mistakes of ours: loud, and never a silence


def test_a_batch_that_cannot_be_encoded_fails_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = FakeBroker()

    class Failing(Encoded):
        def __init__(self, entries: Any, codec: int) -> None:
            if entries[0][2] == b"bad":
                raise MemoryError("no room to compress")
            super().__init__(entries, codec)

    monkeypatch.setattr("logeion.client.accumulator.Encoded", Failing)

    async def work() -> None:
        async with broker.started(linger_ms=0) as producer:
            with pytest.raises(ClientError, match=r"a batch of t\[0\]: MemoryError") as failed:
                await producer.send("t", b"bad")
            assert isinstance(failed.value.__cause__, MemoryError)
            await producer.send("t", b"good")

    run(work)
    assert broker.values() == [b"good"] and "no room to compress" in caplog.text


@pytest.mark.parametrize("where", ["send", "leader", "call"])
def test_a_defect_in_the_sender_fails_what_waits_and_refuses_what_comes(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = FakeBroker()

    def broken(*_: object, **__: object) -> Any:
        raise KeyError("a defect")

    monkeypatch.setattr(broker.metadata if where == "leader" else broker, where, broken)

    async def work() -> None:
        async with broker.started(linger_ms=0) as producer:
            with pytest.raises(ClientError, match="a defect"):
                await producer.send("t", b"x")
            if where != "send":  # of one request it is known which batches it concerns
                with pytest.raises(ClosedError, match="the producer stopped: KeyError"):
                    await producer.send("t", b"y")

    run(work)
    assert "a defect" in caplog.text


# Flush, deadlines, buffers


def test_a_flush_waits_for_what_was_sent_before_it_and_no_more() -> None:
    broker = FakeBroker(2)

    async def work() -> None:
        async with broker.started(linger_ms=0) as producer:
            await producer.prepare("t")
            producer.send_nowait("t", b"before", partition=0)
            broker.hold = True
            flushing = asyncio.create_task(producer.flush())
            await until(lambda: broker.held)
            before, broker.held = broker.held, []
            later = producer.send_nowait("t", b"after", partition=1)
            await until(lambda: broker.held)
            before[0][0].set_result(before[0][1])
            await asyncio.wait_for(flushing, 5)
            assert not later.done()
            broker.answer()

    run(work)


def test_a_flush_from_a_thread_ends_though_more_waits_for_room_by_then() -> None:
    broker = FakeBroker(2)
    loop = background().loop
    with broker.synchronous(buffer_memory=10_000, linger_ms=0, max_block_ms=50) as producer:
        producer.send("t", b"", partition=0).result(5)
        broker.hold = True
        first = producer.send("t", b"first", partition=0)
        flushing = threading.Thread(target=producer.flush)
        flushing.start()
        asyncio.run(until(lambda: broker.held))
        (held,), broker.held = broker.held, []
        with pytest.raises(BufferFullError):
            while True:
                producer.send("t", bytes(1000), partition=1)
        loop.call_soon_threadsafe(held[0].set_result, held[1])
        flushing.join(5)
        assert not flushing.is_alive() and first.done()
        loop.call_soon_threadsafe(broker.answer)
    assert broker.values().count(bytes(1000)) >= 5


def test_a_record_in_flight_fails_at_its_deadline_though_the_request_may_take_longer() -> None:
    broker = FakeBroker()

    async def work() -> None:
        async with broker.started(delivery_timeout_ms=50, linger_ms=0) as producer:
            broker.hold = True
            began = time.monotonic()
            with pytest.raises(DeadlineError, match=r"not delivered within 0.05 s.*may have been written"):
                await producer.send("t", b"x")
            assert time.monotonic() - began < 2.0
            broker.answer()
            assert (await producer.send("t", b"y")).offset == 2

    run(work)


def test_without_acknowledgements_a_stalled_broker_fills_the_buffer_and_not_the_memory() -> None:
    broker = FakeBroker()

    async def work() -> None:
        async with broker.started(acks=0, buffer_memory=50_000, batch_size=1000, linger_ms=0) as producer:
            await producer.send("t", b"first")
            broker.hold = True  # one more request is taken, and waits for its socket
            taken = 0
            with pytest.raises(BufferFullError):
                while taken < 10_000:
                    producer.send_nowait("t", bytes(1000))
                    taken += 1
                    await asyncio.sleep(0)
            assert taken * 1000 < 60_000
            flushing = asyncio.create_task(producer.flush())
            await asyncio.sleep(0.01)  # nothing may happen
            assert not flushing.done()
            broker.hold, broker.writable = False, True
            for tell in broker.writers:
                tell()
            await flushing
            assert len(broker.values()) == 1 + taken

    run(work)


# Where records go


def test_a_topic_that_grew_is_used_whole_once_metadata_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = FakeBroker(2)

    def last(key: bytes, count: int) -> int:
        return count - 1

    async def work() -> None:
        async with broker.started(partitioner=last, linger_ms=0) as producer:
            assert (await producer.send("t", b"x", b"key")).partition == 1
            broker.partitions = 4
            with pytest.raises(UnknownTopicOrPartitionError, match="has 2 partitions, none is 3"):
                producer.send_nowait("t", b"x", partition=3)
            assert (await producer.send("t", b"x", partition=3)).partition == 3, "it asked"
            assert (await producer.send("t", b"x", b"key")).partition == 3
            broker.partitions = 5
            monkeypatch.setattr(sender, "METADATA_MAX_AGE_S", 0.0)
            await producer.send("t", b"x", b"key")
            assert (await producer.send("t", b"x", b"key")).partition == 4, "it asks from time to time"
            with pytest.raises(UnknownTopicOrPartitionError, match="has 5 partitions, none is 7"):
                await producer.send("t", b"x", partition=7)

    run(work)
    broker = FakeBroker(2)
    with broker.synchronous(partitioner=last) as producer:
        assert producer.send("t", b"x", b"key").result(5).partition == 1
        broker.partitions = 4
        assert producer.send("t", b"x", partition=3).result(5).partition == 3
        assert producer.send("t", b"x", b"key").result(5).partition == 3
        assert isinstance(producer.send("t", b"x", partition=9).exception(5), UnknownTopicOrPartitionError)


def test_metadata_that_does_not_come_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = FakeBroker()

    async def never(topics: object = None, *, auto_create: bool = False) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(broker, "refresh", never)
    monkeypatch.setattr(sender, "METADATA_MAX_AGE_S", 0.0)

    async def work() -> None:
        async with broker.started(linger_ms=0, max_block_ms=10) as producer:
            for number in range(20):
                await asyncio.wait_for(producer.send("t", b"%d" % number), 5)
            with pytest.raises(UnknownTopicOrPartitionError):
                await producer.send("t", b"x", partition=3)

    run(work)


def test_records_without_a_key_go_elsewhere_when_their_batch_is_closed_for_whatever_reason() -> None:
    broker = FakeBroker(3)

    async def work() -> None:
        async with broker.started(linger_ms=0) as producer:
            await producer.prepare("t")
            for _ in range(6):
                for _ in range(4):
                    producer.send_nowait("t", b"x")
                await producer.flush()

    run(work)
    partitions = [partition for partition, _ in broker.batches]
    assert len(partitions) == 6 and sorted(partitions) == [0, 0, 1, 1, 2, 2]
    assert [len(records) for _, records in broker.batches] == [4] * 6


def test_a_full_batch_leaves_no_straggler_behind() -> None:
    broker = FakeBroker(3)
    with broker.synchronous(batch_size=5000, linger_ms=10_000) as producer:
        for _ in range(40):
            producer.send("t", bytes(1000))
    assert [len(records) for _, records in broker.batches] == [4] * 10


def test_producers_do_not_all_begin_at_the_same_partition() -> None:
    assert {Sticky().partition("t", 3) for _ in range(200)} == {0, 1, 2}
    sticky = Sticky(lambda count: count - 1)
    assert [sticky.partition("t", 3) for _ in range(3)] == [2, 2, 2]
    sticky.batch_closed("t", 2, 3)
    sticky.batch_closed("t", 2, 3)
    assert sticky.partition("t", 3) == 0
    assert sticky.partition("t", 1) == 0, "a topic made anew with fewer partitions"
    sticky.batch_closed("t", 0, 1)
    assert sticky.partition("t", 1) == 0


def test_records_without_a_key_avoid_partitions_without_a_leader() -> None:
    metadata = Metadata()
    metadata.apply(heard(4, leaderless=[1, 2]), everything=True)
    placement = Placement(metadata, "murmur2", Sticky(lambda _: 0))
    count = placement.known("t")
    assert placement.sticky.partition("t", count) == 0
    placement.batch_closed(("t", 0))
    assert placement.sticky.partition("t", count) == 3
    metadata.apply(heard(4, leaderless=range(4)), everything=True)
    placement.batch_closed(("t", 3))
    assert placement.sticky.partition("t", count) == 0


def test_an_unknown_partitioner_is_refused() -> None:
    with pytest.raises(ConfigError, match="murmur2, crc32"):
        Placement(Metadata(), "md5")


# Where confluent-kafka 2.16 put them on a Logeion broker, in topics of 2, 12 and 50 partitions ("consistent" and
# "consistent_random").
CRC32 = {b"a": 3904355907, b"key": 2324736937, b"user-1234567890ab": 3598734075, bytes(100): 2575877834}


@pytest.mark.parametrize("key", list(CRC32))
@pytest.mark.parametrize("partitions", [1, 2, 12, 50])
def test_crc32_places_keys_as_librdkafka_does(key: bytes, partitions: int) -> None:
    assert by_crc32(key, partitions) == zlib.crc32(key) % partitions == CRC32[key] % partitions
