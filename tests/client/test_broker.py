"""The client against a real broker: `logeion up`, or whatever KAFKA_BOOTSTRAP names."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from logeion.client import Client, Start, TopicPartition, connect
from logeion.errors import (
    InvalidConfigError,
    MessageTooLargeError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from tests.cluster.broker import Broker, running_broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker | None]:
    if os.environ.get("KAFKA_BOOTSTRAP"):
        yield None
        return
    with running_broker(tmp_path_factory.mktemp("client")) as running:
        yield running


@pytest.fixture
def bootstrap(broker: Broker | None) -> str:
    return os.environ["KAFKA_BOOTSTRAP"] if broker is None else broker.bootstrap


def run(bootstrap: str, work: Callable[[Client, str], Awaitable[None]]) -> None:
    """Runs ``work`` with a client and the name of a topic that nobody else uses."""

    async def main() -> None:
        async with connect(bootstrap, default_api_timeout_ms=20_000) as client:
            await work(client, f"t-{uuid.uuid4().hex[:12]}")

    asyncio.run(asyncio.wait_for(main(), 50))


async def read_all(client: Client, topic: str, start: Start | None = None) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    async with client.consumer() as consumer:
        await consumer.assign(topic, start or Start("start"), to_end=True)
        async for tp, record in consumer:
            found.setdefault(tp.partition, []).append(record)
    return found


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_what_was_sent_is_read_with_every_codec(bootstrap: str, codec: str) -> None:
    async def work(client: Client, topic: str) -> None:
        await client.admin.create_topic(topic, partitions=1)
        async with client.producer(compression_type=codec) as producer:
            headers = [("trace", b"1"), ("none", None)]
            first = await producer.send(topic, b"v" * 5000, b"k", headers=headers, timestamp_ms=1234)
            second = await producer.send(topic, None, None)
        assert (first.offset, first.timestamp_ms, second.offset) == (0, 1234, 1)
        one, two = (await read_all(client, topic))[0]
        assert (one.key, one.value, one.headers, one.timestamp) == (b"k", b"v" * 5000, headers, 1234)
        assert (two.key, two.value) == (None, None)

    run(bootstrap, work)


@pytest.mark.not_on_tansu("ListOffsets tells the beginning of the last batch for the end")
def test_many_records_keep_their_order_by_key_and_are_placed_by_murmur2(bootstrap: str) -> None:
    async def work(client: Client, topic: str) -> None:
        await client.admin.create_topic(topic, partitions=4)
        async with client.producer(batch_size=20_000) as producer:
            await producer.prepare(topic)
            sent = [producer.send_nowait(topic, b"%d" % number, b"key-%d" % (number % 9)) for number in range(20_000)]
            await producer.flush()
            assert all(delivery.done() and delivery.exception() is None for delivery in sent)
        found = await read_all(client, topic)
        by_key: dict[bytes, list[int]] = {}
        places: dict[bytes, set[int]] = {}
        for partition, records in found.items():
            assert [record.offset for record in records] == list(range(len(records)))
            for record in records:
                by_key.setdefault(record.key, []).append(int(record.value))
                places.setdefault(record.key, set()).add(partition)
        assert by_key == {b"key-%d" % key: list(range(key, 20_000, 9)) for key in range(9)}
        assert all(len(where) == 1 for where in places.values())

    run(bootstrap, work)


@pytest.mark.not_on_tansu("ListOffsets by time finds another record")
def test_reading_starts_at_offsets_ends_and_times(bootstrap: str) -> None:
    async def work(client: Client, topic: str) -> None:
        await client.admin.create_topic(topic, partitions=1)
        async with client.producer() as producer:
            for number in range(10):
                await producer.send(topic, b"%d" % number, timestamp_ms=1_000_000 + number)

        async def values(start: Start) -> list[int]:
            return [int(record.value) for record in (await read_all(client, topic, start)).get(0, [])]

        assert await values(Start("offset", 7)) == [7, 8, 9]
        assert await values(Start("last", 2)) == [8, 9]
        assert await values(Start("time", 1_000_004)) == [4, 5, 6, 7, 8, 9]
        assert await values(Start("time", 2_000_000)) == []
        assert await values(Start("end")) == []
        with pytest.raises(OffsetOutOfRangeError):
            await values(Start("offset", 11))

    run(bootstrap, work)


def test_a_follower_gets_what_is_sent_later(bootstrap: str) -> None:
    async def work(client: Client, topic: str) -> None:
        await client.admin.create_topic(topic, partitions=2)
        async with client.consumer() as consumer, client.producer() as producer:
            await consumer.assign(topic, Start("end"))
            assert await consumer.getmany(timeout_s=0.1) == {}
            await producer.send(topic, b"later", partition=1)
            (got,) = (await consumer.getmany(timeout_s=10)).items()
            assert got[0] == TopicPartition(topic, 1) and got[1][0].value == b"later"

    run(bootstrap, work)


@pytest.mark.not_on_tansu("MESSAGE_TOO_LARGE is unknown to it")
def test_what_the_broker_refuses_is_a_typed_error_and_the_producer_goes_on(bootstrap: str) -> None:
    async def work(client: Client, topic: str) -> None:
        await client.admin.create_topic(topic, partitions=1, configs={"max.message.bytes": "500"})
        async with client.producer() as producer:
            await producer.send(topic, b"before")
            with pytest.raises(MessageTooLargeError):
                await producer.send(topic, b"x" * 1000)
            assert (await producer.send(topic, b"after")).offset == 1
            with pytest.raises(UnknownTopicOrPartitionError):
                await producer.send(topic, b"x", partition=5)
        with pytest.raises(TopicAlreadyExistsError):
            await client.admin.create_topic(topic)
        with pytest.raises(InvalidConfigError):
            await client.admin.alter_topic(topic, set_values={"retention.ms": "soon"})
        with pytest.raises(UnknownTopicOrPartitionError):
            await client.admin.topic(topic + "-not")

    run(bootstrap, work)


@pytest.mark.not_on_tansu("DeleteRecords ends the connection")
def test_records_before_an_offset_are_deleted(bootstrap: str) -> None:
    async def work(client: Client, topic: str) -> None:
        await client.admin.create_topic(topic, partitions=1)
        async with client.producer() as producer:
            for number in range(5):
                await producer.send(topic, b"%d" % number)
        assert await client.admin.delete_records(topic, 0, 3) == 3
        assert [record.value for record in (await read_all(client, topic))[0]] == [b"3", b"4"]
        await client.admin.delete_topic(topic)

    run(bootstrap, work)


def test_killed_partitions_cost_a_pause_and_nothing_else(bootstrap: str, broker: Broker | None) -> None:
    if broker is None:
        pytest.skip("kills processes of Logeion; KAFKA_BOOTSTRAP names another broker")

    async def work(client: Client, topic: str) -> None:
        await client.admin.create_topic(topic, partitions=2)
        async with client.producer(linger_ms=0) as producer:
            await producer.prepare(topic)
            sent = []
            for number in range(3000):
                sent.append(producer.send_nowait(topic, b"%d" % number, partition=number % 2))
                if number in (1000, 2000):
                    os.kill(broker.pid_of(f"partition {topic}-{number % 2}"), signal.SIGKILL)
                await asyncio.sleep(0)
            for delivery in sent:
                await delivery
        found = await read_all(client, topic)
        for partition in (0, 1):
            assert [int(record.value) for record in found[partition]] == list(range(partition, 3000, 2))

    run(bootstrap, work)
