"""The client for ordinary code, against a real broker."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator

import msgspec
import pytest

import logeion
from logeion import TopicPartition
from logeion.client.errors import BufferFullError, ClosedError
from logeion.errors import ConfigError, UnknownTopicOrPartitionError
from tests.client.brokers import some_broker
from tests.cluster.broker import Broker


class Order(msgspec.Struct):
    id: int
    amount: float


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Broker | None]]:
    with some_broker(tmp_path_factory) as found:
        yield found


@pytest.fixture
def bootstrap(broker: tuple[str, Broker | None]) -> str:
    return broker[0]


@pytest.fixture
def topic(bootstrap: str) -> Iterator[str]:
    name = f"s-{uuid.uuid4().hex[:12]}"
    with logeion.connect(bootstrap) as client:
        client.admin.create_topic(name, partitions=2)
    yield name


def count(client: logeion.Client, topic: str, least: int) -> int:
    """Records in the topic: so many, and those that come within a moment after them."""
    found = 0
    with client.consume(topic, auto_offset_reset="earliest") as records:
        while records.poll(20 if found < least else 0.3) is not None:
            found += 1
    return found


def test_a_send_returns_what_becomes_of_the_record(bootstrap: str, topic: str) -> None:
    orders = logeion.Topic(topic, key=str, value=Order)
    with logeion.connect(bootstrap) as client, client.producer() as producer:
        told = threading.Event()
        seen: list[object] = []
        first = producer.send(orders, Order(1, 9.5), key="ada")
        first.add_callback(seen.append).add_errback(seen.append)
        placed = first.result(10)
        assert (placed.topic, placed.offset) == (topic, 0)
        second = producer.send(topic, b"raw", partition=placed.partition, headers=[("trace", b"1")])
        second.add_callback(lambda _: told.set())
        assert second.get(10).offset == 1 and told.wait(10)
        assert seen == [placed] and first.done() and first.exception() is None
        wrong = producer.send(topic, b"x", partition=7)
        with pytest.raises(UnknownTopicOrPartitionError):
            wrong.result(10)
        with pytest.raises(TypeError, match="takes bytes, not str"):
            producer.send(topic, "text")


def test_many_threads_send_through_one_producer(bootstrap: str, topic: str) -> None:
    with logeion.connect(bootstrap) as client:
        with client.producer() as producer:

            def work(number: int) -> None:
                for sent in range(2000):
                    producer.send(topic, b"%d" % sent, b"%d" % number)

            threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert count(client, topic, 8000) == 8000
        with pytest.raises(ClosedError):
            producer.send(topic, b"late")


def test_a_full_buffer_blocks_as_long_as_it_may_and_then_raises(broker: tuple[str, Broker | None], topic: str) -> None:
    address, process = broker
    if process is None:
        pytest.skip("stops a process of Logeion; KAFKA_BOOTSTRAP names another broker")
    gateway = process.pid_of("gateway")
    with logeion.connect(address) as client:
        with client.producer(buffer_memory=40_000, max_block_ms=100) as producer:
            producer.send(topic, b"first", partition=0).result(10)
            os.kill(gateway, signal.SIGSTOP)
            try:
                sent = 1
                with pytest.raises(BufferFullError):
                    for _ in range(100):
                        producer.send(topic, b"x" * 1000, partition=0)
                        sent += 1
            finally:
                os.kill(gateway, signal.SIGCONT)
            assert 30 <= sent <= 41
            producer.flush(20)


def test_more_than_the_buffer_holds_is_sent_and_waits_for_its_turn(bootstrap: str, topic: str) -> None:
    with logeion.connect(bootstrap) as client, client.producer(buffer_memory=40_000, linger_ms=60_000) as producer:
        for _ in range(200):
            producer.send(topic, b"x" * 1000, partition=0)
        assert producer.send(topic, b"x" * 39_000, partition=0).succeeded() is False
        large = producer.send(topic, b"x" * 100_000, partition=0)
        producer.flush(20)
        assert large.result(10).offset == 201


def test_what_was_sent_leaves_before_the_interpreter_does(bootstrap: str, topic: str) -> None:
    code = (
        "import logeion, sys\n"
        "producer = logeion.connect(sys.argv[1]).producer(linger_ms=60000)\n"
        "for n in range(100): producer.send(sys.argv[2], b'%d' % n)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, bootstrap, topic], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    with logeion.connect(bootstrap) as client:
        assert count(client, topic, 100) == 100


def test_what_cannot_be_sent_before_the_interpreter_exits_is_said(
    broker: tuple[str, Broker | None], topic: str
) -> None:
    address, process = broker
    if process is None:
        pytest.skip("stops a process of Logeion; KAFKA_BOOTSTRAP names another broker")
    gateway = process.pid_of("gateway")
    code = (
        "import logeion, logeion.client.background, os, signal, sys\n"
        "logeion.client.background.EXIT_S = 0.2\n"
        "producer = logeion.connect(sys.argv[1]).producer()\n"
        "producer.send(sys.argv[2], b'sent').result(10)\n"
        "os.kill(int(sys.argv[3]), signal.SIGSTOP)\n"
        "for n in range(7): producer.send(sys.argv[2], b'%d' % n)\n"
    )
    command = [sys.executable, "-c", code, address, topic, str(gateway)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    finally:
        os.kill(gateway, signal.SIGCONT)
    assert done.returncode == 0
    assert "7 records that were not acknowledged" in done.stderr


def test_settings_that_nobody_knows_are_refused(bootstrap: str) -> None:
    with logeion.connect(config={"bootstrap.servers": bootstrap, "request.timeout.ms": "5000"}) as client:
        with pytest.raises(ConfigError, match="did you mean linger_ms"):
            client.producer(liger_ms=3)  # type: ignore[call-arg]
        with pytest.raises(ConfigError, match="did you mean batch_size"):
            client.producer(config={"batch.sise": "1"})


def test_producers_consumers_and_admins_also_stand_alone(bootstrap: str, topic: str) -> None:
    with logeion.Producer(bootstrap_servers=bootstrap, client_id="alone", linger_ms=0) as producer:
        producer.send(topic, b"one").result(10)
    orders = logeion.Topic(topic, value=int, on_decode_error="skip")
    with logeion.Producer(config={"bootstrap.servers": bootstrap}) as producer:
        producer.send(orders, 1)
    with logeion.Consumer(orders, bootstrap_servers=[bootstrap], auto_offset_reset="earliest") as consumer:
        assert next(iter(consumer)).value == 1
    with logeion.Admin(bootstrap_servers=bootstrap) as admin:
        assert admin.topic(topic).name == topic


def test_a_consumer_that_nobody_closed_is_told_at_exit_and_holds_up_no_producer(bootstrap: str, topic: str) -> None:
    code = (
        "import logeion, sys\n"
        "client = logeion.connect(sys.argv[1])\n"
        "producer = client.producer(linger_ms=60000)\n"
        "producer.send(sys.argv[2], b'first')\n"
        "def revoked(partitions):\n"
        "    consumer.commit()\n"
        "    print('revoked', len(partitions), flush=True)\n"
        "    raise KeyError('a mistake')\n"
        "consumer = client.consume(sys.argv[2], group=sys.argv[2], on_revoked=revoked, auto_offset_reset='earliest')\n"
        "other = logeion.connect(sys.argv[1]).producer()\n"
        "other.send(sys.argv[2], b'second').result(10)\n"
        "next(iter(consumer))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, bootstrap, topic], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stdout.startswith("revoked "), done.stderr
    assert "a mistake" in done.stderr and "RuntimeError" not in done.stderr
    with logeion.connect(bootstrap) as client:
        assert count(client, topic, 2) == 2
        assert not client.admin.group(topic).members


def test_a_client_closes_all_it_made_and_keeps_nothing_that_was_closed(bootstrap: str, topic: str) -> None:
    def mistaken(_: object) -> None:
        raise KeyError("a mistake")

    client = logeion.connect(bootstrap)
    for _ in range(3):
        client.producer().close()
        client.consume(topic).close()
    gc.collect()
    assert len(client._made) == 0
    producer = client.producer(linger_ms=60_000)
    consumers = [client.consume(topic, group=f"{topic}-{n}", on_revoked=mistaken) for n in range(2)]
    for consumer in consumers:
        consumer.poll(0.1)
    sent = producer.send(topic, b"kept")
    with pytest.raises(KeyError, match="a mistake"):
        client.close()
    assert sent.succeeded() and all(consumer._closed for consumer in consumers)


def test_rebalance_callbacks_may_be_coroutines_or_wait_for_the_client(bootstrap: str, topic: str) -> None:
    told: list[str] = []

    async def assigned(partitions: list[TopicPartition]) -> None:
        await asyncio.sleep(0)
        told.append(f"assigned {len(partitions)}")

    class Revoked:
        async def __call__(self, partitions: list[TopicPartition]) -> None:
            told.append(f"revoked {len(partitions)}")

    with logeion.connect(bootstrap) as client:
        with client.producer() as producer:
            producer.send(topic, b"x")
        with client.consume(
            topic, group=topic, on_assigned=assigned, on_revoked=Revoked(), auto_offset_reset="earliest"
        ) as consumer:
            assert next(iter(consumer)).value == b"x"
    assert [line.split()[0] for line in told] == ["assigned", "revoked"]
